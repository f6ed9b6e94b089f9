"""Limits that a process keeps in memory: calls per window, calls in flight, bytes of bodies, rows not yet written."""
