"""The configuration of accounts that a process has cached, separately for each account.

Code that derives something from an account's configuration takes the account's KnownAccount first and reads afterwards.
If the account is forgotten meanwhile, what was read belongs to an outdated object, and is never found again.
"""

from collections.abc import Hashable, Mapping
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from farebox.detection.rules import ScreeningRules
from farebox.dynamic_routes.graph import Graph
from farebox.gateway import ServedGateway
from farebox.policies.decide import Policies
from farebox.runtime.gateway_secrets import Exporter
from farebox.runtime.own_providers import OwnProviders

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

ENTRIES_MAX: Final = 200_000
"""Maximum entries of all accounts together. Above it, the account that has been cached the longest loses its
entries."""
ACCOUNT_ENTRIES_MAX: Final = 1_000
"""Maximum entries of one account, which may ask for any number of names. Above it, the account loses its entries: they
are read again in microseconds."""


class KnownAccount:
    """What is cached of one account."""

    __slots__ = (
        "__weakref__", "account_id", "aliases", "current", "entries", "exporters", "gateways", "own", "policies",
        "routes", "rules",
    )  # fmt: skip

    def __init__(self, account_id: str) -> None:
        self.account_id = account_id
        self.current = True
        """Whether the account's configuration is unchanged since. Once false, it stays false."""
        self.entries = 0
        self.gateways: dict[str, ServedGateway] = {}
        self.own: dict[str, OwnProviders] = {}
        """Stored keys and custom providers, by gateway."""
        self.exporters: dict[str, Mapping[str, Exporter]] = {}
        """Where the spans of a gateway are sent, by gateway and URL."""
        self.rules: dict[str, ScreeningRules] = {}
        """Gateway → its screening rules."""
        self.routes: dict[tuple[str, str], tuple[str, Graph] | None] = {}
        """Gateway and name → ID and graph of the deployed route; None: there is no route that can be called."""
        self.policies: dict[str, Policies | None] = {}
        """By gateway; None: it has no policies, and lets every call through."""
        self.aliases: dict[tuple[str, str], Graph | None] = {}
        """Gateway and name → the route that a model without a provider stands for; None: it is not an alias."""

    def clear(self) -> None:
        self.entries = 0
        caches = (
            self.gateways, self.own, self.exporters, self.rules, self.routes, self.policies, self.aliases,
        )  # fmt: skip
        for cache in caches:
            cache.clear()


class KnownAccounts:
    """The accounts whose configuration is cached or used."""

    def __init__(self) -> None:
        self._all: WeakValueDictionary[str, KnownAccount] = WeakValueDictionary()
        """Those in `_kept`, and others as long as something derived from them is in use: anyone can name an account
        that does not exist."""
        self._kept: dict[str, KnownAccount] = {}
        self._entries = 0

    def of(self, account_id: str) -> KnownAccount:
        """The account's object, which must be taken before anything of the account is read."""
        known = self._kept.get(account_id) or self._all.get(account_id)
        if known is None:
            self._all[account_id] = known = KnownAccount(account_id)
        return known

    def keep(self, known: KnownAccount, cache: dict[K, V], key: K, value: V) -> None:
        """Cache a value that was read of an existing account, in one of the caches of `known`; without effect if
        `known` is outdated."""
        if not known.current:
            return
        if known.entries >= ACCOUNT_ENTRIES_MAX:
            self._entries -= known.entries
            known.clear()
        known.entries += key not in cache
        self._entries += key not in cache
        cache[key] = value
        self._kept[known.account_id] = known
        while self._entries > ENTRIES_MAX:
            self._release(next(iter(self._kept)))

    def forget(self, account_id: str) -> None:
        """Drop what is cached of the account, because its configuration has changed."""
        known = self._all.pop(account_id, None)
        if known is not None:
            known.current = False
            self._release(account_id)

    def forget_all(self) -> None:
        for known in list(self._all.values()):
            known.current = False
        self._all.clear()
        self._kept.clear()
        self._entries = 0

    def _release(self, account_id: str) -> None:
        """Drop what is cached of the account."""
        known = self._kept.pop(account_id, None)
        if known is not None:
            self._entries -= known.entries
            known.clear()
