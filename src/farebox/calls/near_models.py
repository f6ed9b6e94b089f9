"""What may have been meant by the name of a model that has no price."""

from farebox.runtime.services import Services


def near_models(services: Services, account_id: str, provider: str, model: str) -> str:
    """A sentence with models of this provider that are spelled nearly like it and have a price, to be added to a
    message; empty if there are none."""
    near = services.configuration.prices.near(account_id, provider, model, services.clock.now_ms())
    return f" Models of similar names: {', '.join(near)}." if near else ""
