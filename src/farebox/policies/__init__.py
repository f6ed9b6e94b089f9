"""Policies: who may call which models of a gateway, and for how much."""
