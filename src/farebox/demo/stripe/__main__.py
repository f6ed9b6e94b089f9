"""`python -m farebox.demo.stripe`: the fake Stripe alone."""

from farebox.demo.stripe.server import main

main()
