"""`python -m fake_stripe`: the fake Stripe alone."""

from fake_stripe.command import main

main()
