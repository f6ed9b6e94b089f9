"""The types that more than one part of the program uses. Read this first."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

METADATA_ENTRIES_MAX = 5
"""Entries that a call's metadata has at most."""
METADATA_RESERVED = "cf."
"""What the names of no entries begin with."""


class Permission(StrEnum):
    """What an access token may do; the names are Cloudflare's permission groups, except for the last one, which is
    ours.
    """

    READ = "AI Gateway Read"
    WRITE = "AI Gateway Write"
    RUN = "AI Gateway Run"
    BILLING_WRITE = "AI Gateway Billing Write"


class Role(StrEnum):
    """What somebody may do on the pages: the first four on one account, the last one as operator."""

    OWNER = "owner"
    BILLING = "billing"
    DEVELOPER = "developer"
    VIEWER = "viewer"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Operator:
    """Who acts as operator, as the audit log names them."""

    who: str
    """An e-mail address, the ID of a session that has none, or a user of the machine: `user@host`."""
    way: Literal["page", "command"]


@dataclass(frozen=True, slots=True)
class Account:
    """The tenant who pays. `bucket` is the first part of the key of everything that belongs to it."""

    account_id: str
    bucket: int
    name: str
    created_at: int
    frozen_at: int | None = None
    """Since when the operator has it make no calls and no purchases, in milliseconds; None: it may."""


def in_models(models: tuple[str, ...] | None, provider: str, model: str) -> bool:
    """Whether the model is one of these, which are `provider/model` or `provider/*`; None: all."""
    return models is None or f"{provider}/{model}" in models or f"{provider}/*" in models


RATE_CALLS_MAX = 1_000_000_000
RATE_SECONDS_MAX = 366 * 86_400


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A number of calls per number of seconds."""

    calls: int
    seconds: int
    sliding: bool
    """Any window of this length; otherwise windows follow one another."""


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
    """The models it may call, as `provider/model` or `provider/*`; None: all."""
    rate: RateLimit | None = None
    """Of its model calls; None: there is no limit."""

    def may_call(self, provider: str, model: str) -> bool:
        return in_models(self.models, provider, model)

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
    """Those that the token may call; None: all."""

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
