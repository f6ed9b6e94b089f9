"""Encodings of what gateways send elsewhere about their calls. runtime and calls decide when to send it, and send
it."""
