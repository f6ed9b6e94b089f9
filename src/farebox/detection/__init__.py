"""Screening: finding what a gateway's rules look for in the text of its calls. Pure functions."""
