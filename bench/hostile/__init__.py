"""Measures what one account can do to the others."""
