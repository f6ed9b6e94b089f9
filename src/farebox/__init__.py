"""Farebox: a self-hosted AI gateway that is paid before the ride."""

__version__ = "0.5.0"
