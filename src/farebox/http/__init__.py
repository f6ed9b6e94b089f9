"""The HTTP edge: every URL, authentication, and the wire formats."""
