"""The owner's billing page: server-rendered HTML, without scripts or card data.

`markup` escapes, `layout` frames, `words` says amounts and states for people, `view` gathers what a page shows, the
sections and steps make HTML of it, `actions` does what the forms ask for, `site` has the URLs, sessions and headers.
"""
