"""Calls that are WebSockets, and their turns."""
