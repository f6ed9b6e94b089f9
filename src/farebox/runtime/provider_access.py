"""How a provider is reached: on the operator's account, or as an account has set it up for itself."""

from dataclasses import dataclass, field

from farebox.pricing.custom_costs import CustomCosts
from farebox.providers.provider import Provider


@dataclass(frozen=True, slots=True)
class CustomAccess:
    """What an account says about a provider of its own."""

    enabled: bool
    readable: bool
    """Whether its stored headers can be decrypted."""
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    """What is sent with each call; names in lower case."""
    secrets: tuple[str, ...] = field(repr=False)
    """Those of their values that are secret."""
    costs: CustomCosts
    versioned: bool
    """Whether the base URL ends in a version of the API, such as `/v1`."""


@dataclass(frozen=True, slots=True)
class OperatorKey:
    """One of several keys of the operator's that share a provider's calls."""

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
    """The operator's."""
    custom: CustomAccess | None = None
    """Of an account's own provider: it has no key of the operator's, and nothing is charged."""
    keys: tuple[OperatorKey, ...] = ()
    """The operator's, where several share the calls: `api_key` is the first. Empty where there is one, or none."""
    key_id: str = ""
    """Of `api_key`."""
