"""`python -m fake_stripe`: runs only the fake Stripe."""

from fake_stripe.command import main

main()
