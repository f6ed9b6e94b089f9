"""Providers: their base URLs, credentials and wire formats, and the client that calls them."""
