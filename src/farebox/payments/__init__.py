"""Payments: the processor behind a protocol, what a purchase costs, and the states of top-ups, refunds and disputes."""
