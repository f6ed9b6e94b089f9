"""The pages for people: server-rendered HTML, which works without scripts and holds no card data.

`routes` is the table of pages and forms, `table` says what a row means and serves it, `visit` knows who is signed in.
Each area has modules of its own: what gathers its pages (`overview`, `billing`, …) and what its forms do. `render`
turns templates into bytes, `labels` says amounts and states for people, `charts` is geometry. ARCHITECTURE.md says how
to add a page.
"""
