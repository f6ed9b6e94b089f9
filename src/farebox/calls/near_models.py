"""Suggesting models whose names resemble that of a model without a price."""

from farebox.runtime.services import Services


def near_models(services: Services, account_id: str, provider: str, model: str) -> str:
    """A sentence that lists priced models of this provider with a similar name, to be appended to a message; empty if
    there are none."""
    near = services.configuration.prices.near(account_id, provider, model, services.clock.now_ms())
    return f" Similar models: {', '.join(near)}." if near else ""
