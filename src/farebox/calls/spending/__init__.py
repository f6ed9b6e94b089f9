"""Limits on spending, and the refusals they lead to."""
