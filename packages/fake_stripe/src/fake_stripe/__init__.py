"""A fake Stripe: a local server that speaks Stripe's API over real HTTP, with test cards and no money.

`start_fake_stripe` serves one in the running event loop; `routes` has every call of the API on one page; README.md says
how to use and control it. Objects are plain dictionaries in the API's own shape. Names of internal fields, which the
caller does not see, begin with `_`.
"""

from fake_stripe.server import AddressInUse, RunningFakeStripe, start_fake_stripe

__all__ = ["AddressInUse", "RunningFakeStripe", "start_fake_stripe"]
