"""Passing a response on, in one piece or as a stream, and metering it on the way."""
