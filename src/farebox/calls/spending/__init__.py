"""Limits on what may be spent, and the refusals they lead to."""
