"""The pages for people: server-rendered HTML, which works without scripts and contains no card data.

`routes` is the table of pages and forms, `table` defines what a row means and serves it, `visit` knows who is signed
in. Each area has its own modules, which gather the content of its pages (`overview`, `billing`, …) and carry out its
forms. `render` turns templates into bytes, `labels` formats amounts and states for people, `charts` is geometry.
ARCHITECTURE.md says how to add a page.
"""
