"""What a process has cached of accounts' configuration, one account apart from another.

Whoever derives something from an account's configuration takes its KnownAccount first and reads afterwards: if the
account is forgotten meanwhile, what was read belongs to an object that is out of date, and nobody finds it.
"""

from collections.abc import Hashable, Mapping
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from farebox.gateway import ServedGateway
from farebox.policies.decide import Policies
from farebox.routing.graph import Graph
from farebox.runtime.gateway_secrets import Exporter
from farebox.runtime.own_providers import OwnProviders
from farebox.screening.rules import Rules

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

ENTRIES_MAX: Final = 200_000
"""Of all accounts together. Beyond, the account that has been cached for the longest loses its own."""
ACCOUNT_ENTRIES_MAX: Final = 1_000
"""Of one account: it may ask for any number of names. Beyond, it loses its own: they are read again in microseconds."""


class KnownAccount:
    """What is cached of one account."""

    __slots__ = (
        "__weakref__", "account_id", "aliases", "current", "entries", "exporters", "gateways", "own", "policies",
        "routes", "rules",
    )  # fmt: skip

    def __init__(self, account_id: str) -> None:
        self.account_id = account_id
        self.current = True
        """Nothing of it has changed since. It becomes false once, and stays so."""
        self.entries = 0
        self.gateways: dict[str, ServedGateway] = {}
        self.own: dict[str, OwnProviders] = {}
        """Stored keys and custom providers, by gateway."""
        self.exporters: dict[str, Mapping[str, Exporter]] = {}
        """Where the spans of a gateway are sent, by gateway and URL."""
        self.rules: dict[str, Rules] = {}
        """What a gateway's calls are screened by."""
        self.routes: dict[tuple[str, str], tuple[str, Graph] | None] = {}
        """ID and graph of deployed routes by gateway and name; None: there is none that can be called."""
        self.policies: dict[str, Policies | None] = {}
        """By gateway; None: it has none, and lets every call through."""
        self.aliases: dict[tuple[str, str], Graph | None] = {}
        """What models without a provider stand for, by gateway and name; None: nothing."""

    def clear(self) -> None:
        self.entries = 0
        caches = (
            self.gateways, self.own, self.exporters, self.rules, self.routes, self.policies, self.aliases,
        )  # fmt: skip
        for cache in caches:
            cache.clear()


class KnownAccounts:
    """The accounts of which something is cached or derived."""

    def __init__(self) -> None:
        self._all: WeakValueDictionary[str, KnownAccount] = WeakValueDictionary()
        """Those of `_kept`, and others as long as something that was derived from them is in use: anybody can name an
        account that does not exist."""
        self._kept: dict[str, KnownAccount] = {}
        self._entries = 0

    def of(self, account_id: str) -> KnownAccount:
        """To be taken before anything of the account is read."""
        known = self._kept.get(account_id) or self._all.get(account_id)
        if known is None:
            self._all[account_id] = known = KnownAccount(account_id)
        return known

    def keep(self, known: KnownAccount, cache: dict[K, V], key: K, value: V) -> None:
        """Remember what was read of an account that exists, in a cache of `known`; not where that is out of date."""
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
        """The account's configuration has changed."""
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
        """Cache nothing of it any more."""
        known = self._kept.pop(account_id, None)
        if known is not None:
            self._entries -= known.entries
            known.clear()
