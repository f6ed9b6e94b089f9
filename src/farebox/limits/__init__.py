"""Limits on calls per window."""
