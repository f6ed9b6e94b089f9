"""The providers, a row each."""
