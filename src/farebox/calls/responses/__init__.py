"""Passing a response on: whole or as a stream, metered on the way."""
