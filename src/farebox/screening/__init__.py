"""Screening: what the rules of a gateway look for in what its calls say. Functions of values alone."""
