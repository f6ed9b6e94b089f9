"""The providers, one row each."""
