"""Outgoing messages: signed webhooks over HTTP, and e-mail."""
