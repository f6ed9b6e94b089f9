"""Tests of hostile tenants and clients, and of a broken environment."""
