"""Tests with a real Valkey or Redis server."""
