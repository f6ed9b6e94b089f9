"""The fake Stripe: a local server that speaks Stripe's API over real HTTP, with test cards and no money.

`server` serves it; `routes` has every call of the API on one page; `docs/fake-stripe.md` says how to use and steer it.
Objects are plain dictionaries in the API's own shape. What is not for the caller's eyes begins with `_`.
"""
