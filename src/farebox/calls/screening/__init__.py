"""Screening of a call by the rules of its gateway."""
