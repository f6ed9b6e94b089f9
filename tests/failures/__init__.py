"""Tests of a database that is unavailable, killed, failed over, or without its standby, with real servers."""
