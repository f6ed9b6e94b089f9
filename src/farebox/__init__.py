"""Farebox: a self-hosted AI gateway with prepaid billing."""

__version__ = "0.5.0"
