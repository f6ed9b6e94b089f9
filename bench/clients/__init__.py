"""How official SDKs and coding agents show refusals: `python -m bench.clients`."""
