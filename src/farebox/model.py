"""The types that more than one part of the program uses. Read this first.

Times are milliseconds since the Unix epoch.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

METADATA_ENTRIES_MAX = 5
"""Maximum number of entries in a call's metadata."""
METADATA_RESERVED = "cf."
"""Reserved prefix: no metadata key may begin with it."""


class Permission(StrEnum):
    """What an access token may do. The names are Cloudflare's permission groups, except for the last, which is ours."""

    READ = "AI Gateway Read"
    WRITE = "AI Gateway Write"
    RUN = "AI Gateway Run"
    BILLING_WRITE = "AI Gateway Billing Write"


class Role(StrEnum):
    """What a person may do on the pages: the first four roles apply to one account, the last one is the operator's."""

    OWNER = "owner"
    BILLING = "billing"
    DEVELOPER = "developer"
    VIEWER = "viewer"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Operator:
    """Who acted as operator, as recorded in the audit log."""

    who: str
    """An e-mail address, the ID of a session without one, or a user of the machine: `user@host`."""
    way: Literal["page", "command"]


@dataclass(frozen=True, slots=True)
class Account:
    """The tenant who pays. `bucket` leads the key of every row that belongs to it."""

    account_id: str
    bucket: int
    name: str
    created_at: int
    frozen_at: int | None = None
    """When the operator froze the account, so that it can make no calls and no purchases (Unix milliseconds); None: it
    is not frozen."""


def in_models(models: tuple[str, ...] | None, provider: str, model: str) -> bool:
    """Whether the model is one of these, which are written `provider/model` or `provider/*`; None: all."""
    return models is None or f"{provider}/{model}" in models or f"{provider}/*" in models


def in_gateways(gateways: tuple[str, ...] | None, gateway_id: str) -> bool:
    """Whether the gateway is one of these; None: all."""
    return gateways is None or gateway_id in gateways


RATE_CALLS_MAX = 1_000_000_000
RATE_SECONDS_MAX = 366 * 86_400


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A number of calls per number of seconds."""

    calls: int
    seconds: int
    sliding: bool
    """Whether the limit applies to any window of this length; otherwise windows follow one another."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """Authenticates a caller to us, for one account. The secret itself is never stored."""

    token_id: str
    account_id: str
    name: str
    permissions: frozenset[Permission]
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    models: tuple[str, ...] | None = None
    """The models that it may call, as `provider/model` or `provider/*`; None: all."""
    rate: RateLimit | None = None
    """The rate limit of its model calls; None: none."""
    gateways: tuple[str, ...] | None = None
    """The gateways that it may use; None: all. May be empty, as deleted gateways are removed from it."""

    @property
    def label(self) -> str:
        """What pages call it: its name, or the first eight characters of its ID if it has none."""
        return self.name or self.token_id[:8]

    def may_call(self, provider: str, model: str) -> bool:
        return in_models(self.models, provider, model)

    def may_reach(self, gateway_id: str) -> bool:
        return in_gateways(self.gateways, gateway_id)

    def active(self, at: int) -> bool:
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling, after authentication: a token of one account, or a user who is a member of several."""

    name: str
    accounts: frozenset[str]
    permissions: frozenset[Permission]
    token_id: str | None = None
    expires_at: int | None = None
    """When the token expires, in milliseconds since the Unix epoch."""
    models: tuple[str, ...] | None = None
    """The models that the token may call; None: all."""
    gateways: tuple[str, ...] | None = None
    """The gateways that the token may use; None: all."""

    def may_reach(self, gateway_id: str) -> bool:
        return in_gateways(self.gateways, gateway_id)

    def may(self, account_id: str, *permissions: Permission) -> bool:
        """Whether the caller may act on the account with any one of the permissions."""
        return account_id in self.accounts and any(permission in self.permissions for permission in permissions)


@dataclass(frozen=True, slots=True)
class Balance:
    """An account's money, in nano-dollars."""

    posted: int
    held: int

    @property
    def available(self) -> int:
        return self.posted - self.held
