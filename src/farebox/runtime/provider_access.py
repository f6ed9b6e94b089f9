"""How a provider is reached: on the operator's account, or as an account has configured its own provider."""

from dataclasses import dataclass, field

from farebox.pricing.custom_provider_costs import CustomCosts
from farebox.providers.provider import Provider


@dataclass(frozen=True, slots=True)
class CustomAccess:
    """An account's configuration of a custom provider."""

    enabled: bool
    readable: bool
    """Whether its stored headers can be decrypted."""
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    """Sent with each call; names are in lower case."""
    secrets: tuple[str, ...] = field(repr=False)
    """The header values that are secret."""
    costs: CustomCosts
    versioned: bool
    """Whether the base URL ends in an API version, such as `/v1`."""


@dataclass(frozen=True, slots=True)
class OperatorKey:
    """One of several operator keys that share a provider's calls."""

    key_id: str
    """`provider`, or `provider/name`."""
    key: str = field(repr=False)
    weight: int


@dataclass(frozen=True, slots=True)
class ProviderAccess:
    """How to reach a provider."""

    provider: Provider
    base_url: str
    api_key: str | None = field(repr=False)
    """The operator's key."""
    custom: CustomAccess | None = None
    """Set for a custom provider: it has no operator's key, and nothing is charged."""
    keys: tuple[OperatorKey, ...] = ()
    """The operator's keys, if several share the calls: `api_key` is the first. Otherwise empty."""
    key_id: str = ""
    """ID of `api_key`."""
