"""Payments: the processor behind a protocol, what a purchase costs, and the states that money in goes through."""
