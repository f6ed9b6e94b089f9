"""Screening a call by the rules of its gateway."""
