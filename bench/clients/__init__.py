"""What the official SDKs make of refusals: `python -m bench.clients`."""
