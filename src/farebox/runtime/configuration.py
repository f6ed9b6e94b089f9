"""The configuration that the hot path needs, cached; a change by any process takes effect within a second.

A change of one account's configuration empties the cache of that account only; a change that concerns all accounts,
such as a price, empties the whole cache.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import TypeVar

import msgspec
import structlog
from msgspec.structs import replace

from farebox.clock import Clock
from farebox.detection.rules import ScreeningRules
from farebox.dynamic_routes.elements import Element
from farebox.dynamic_routes.graph import Graph, graph_of, graph_of_targets, read_targets
from farebox.gateway import DEFAULT_GATEWAY, GatewayConfig, ServedGateway
from farebox.model import AccessToken, Caller, Permission
from farebox.policies.decide import Policies
from farebox.pricing.compiler import PriceList
from farebox.pricing.pricebook import OwnMarkup, OwnPrice, PriceBook
from farebox.pricing.supplement import InvalidSupplement, Supplement, shipped
from farebox.runtime.gateway_secrets import Exporter, read_exporters
from farebox.runtime.known_accounts import KnownAccount, KnownAccounts
from farebox.runtime.operator_access import read_operator_access
from farebox.runtime.own_providers import OwnProviders, read_own_providers
from farebox.runtime.provider_access import ProviderAccess
from farebox.runtime.screening_rules import read_rules
from farebox.runtime.stored_policies import read_policies
from farebox.storage.account_settings import read_settings
from farebox.storage.accounts import find_account, find_token, find_user
from farebox.storage.config import (
    MarkupRow,
    PriceRow,
    changes_since,
    config_version,
    find_supplement,
    list_markups,
    list_prices,
)
from farebox.storage.custom_domains import CustomDomain, active_domains
from farebox.storage.database import Database
from farebox.storage.dynamic_routes import find_route_named
from farebox.storage.gateways import GatewayRow, find_gateway, put_gateway
from farebox.storage.model_aliases import ALIASES
from farebox.storage.sql import Connection, DatabaseUnavailable
from farebox.vault import Vault, same

log = structlog.get_logger("farebox.configuration")

K = TypeVar("K")
V = TypeVar("V")

NAME_MAX = 64
"""Maximum characters in the name of a dynamic route or a model alias."""
CACHE_MAX = 100_000
"""Maximum number of cached access tokens, and of gateways that do not exist. A full cache is emptied: refilling takes
microseconds per entry."""


class Configuration:
    """The current tokens, gateways, providers, stored keys and prices."""

    def __init__(self, database: Database, vault: Vault, clock: Clock, *, demo_url: str | None = None) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock
        self._demo_url = demo_url
        self._version = 0
        self._forgotten = 0
        """Incremented whenever something is dropped. A token that was being read meanwhile is not cached, as its
        account was not known when the drop happened."""
        self.loads = 0
        """How often the whole configuration was read."""
        self._accounts = KnownAccounts()
        self._tokens: dict[str, tuple[AccessToken, KnownAccount]] = {}
        """Tokens whose cached accounts are still current."""
        self._no_gateways: dict[tuple[str, str], KnownAccount] = {}
        """Cached misses: browsers repeat such requests, and anyone can send them."""
        self.domains: dict[str, tuple[str, str]] = {}
        """Host name of each active custom domain → account and gateway."""
        self._domains_of: dict[str, list[str]] = {}
        """Account → the host names of its active custom domains."""
        self._providers: dict[str, ProviderAccess] = {}
        self._price_list = PriceList()
        self._supplement = ""
        """The text of the loaded supplement that `_price_list` contains; empty: the shipped one."""
        self.prices = PriceBook(price_list=self._price_list)

    @property
    def demo(self) -> bool:
        """Whether the demo provider is available."""
        return self._demo_url is not None

    @classmethod
    async def load(
        cls, database: Database, vault: Vault, clock: Clock, *, demo_url: str | None = None
    ) -> "Configuration":
        """The configuration as it is in the database now."""
        configuration = cls(database, vault, clock, demo_url=demo_url)
        await configuration.forget_all()
        return configuration

    async def forget_all(self) -> None:
        """Drop everything cached, and read what concerns all accounts again."""
        version = await self._database.get(config_version)
        await self._load()
        self.loads += 1
        self._version = version  # last, so that a read that fails is repeated

    async def notice_own_change(self) -> None:
        """Call after this process has committed a change. The change stands even if the database is unavailable now:
        what is out of date is dropped as soon as it can be read."""
        with suppress(DatabaseUnavailable):
            await self.notice_changes()

    async def notice_changes(self) -> None:
        """Drop what is out of date; called more than twice a second. Raises DatabaseUnavailable."""
        before = self._version
        found = await self._database.get(lambda connection: changes_since(connection, before))
        if found is None:
            await self.forget_all()
            return
        version, changed = found
        self._forgotten += bool(changed)
        self._database.forget_buckets(changed)
        for account_id in changed:
            self._accounts.forget(account_id)
        for account_id in changed:
            self._set_domains(account_id, await self._database.get(partial(active_domains, account_id=account_id)))
        self._version = max(self._version, version)  # last, so that a read that fails is repeated

    def _set_domains(self, account_id: str, active: list[CustomDomain]) -> None:
        """Set the account's active domains, replacing all others."""
        for hostname in self._domains_of.pop(account_id, ()):
            if self.domains.get(hostname, ("", ""))[0] == account_id:
                del self.domains[hostname]
        if active:
            self._domains_of[account_id] = [domain.hostname for domain in active]
            self.domains |= {domain.hostname: (account_id, domain.gateway_id) for domain in active}

    def known(self, account_id: str) -> KnownAccount:
        """What is cached of the account. Code that keeps something derived from the account's configuration must take
        this before reading the configuration, and keep its result only as long as this is `current`."""
        return self._accounts.of(account_id)

    async def token(self, text: str) -> AccessToken | None:
        """The active access token with this text, or None."""
        cached = self._tokens.get(text)
        if cached is not None and cached[1].current:
            found: AccessToken | None = cached[0]
        else:
            hashed = self._vault.hash_token(text)
            before = self._forgotten
            found = await self._database.get(lambda connection: find_token(connection, hashed))
            if found is not None and before == self._forgotten:
                _remember(self._tokens, text, (found, self._accounts.of(found.account_id)))
        return found if found is not None and found.active(self._clock.now_ms()) else None

    async def user(self, email: str, key: str) -> Caller | None:
        """The user with this e-mail address and key: a member with every permission on the accounts named."""
        found = await self._database.get(lambda connection: find_user(connection, email))
        if found is None or not same(found[0], self._vault.hash_token(key)):
            return None
        return Caller(email, found[1], frozenset(Permission))

    async def gateway(self, account_id: str, gateway_id: str, *, create: bool = True) -> ServedGateway | None:
        """The gateway's configuration, or None. `default` is created on first use, if `create`."""
        known = self._accounts.of(account_id)
        config = known.gateways.get(gateway_id)
        if config is not None:
            return config
        key, makes = (account_id, gateway_id), create and gateway_id == DEFAULT_GATEWAY
        if not makes and self._no_gateways.get(key) is known:
            return None
        row, account = await self._database.get(
            lambda connection: (find_gateway(connection, account_id, gateway_id), find_account(connection, account_id))
        )
        if row is None and makes:
            row = await self._make_default(account_id)
        if row is None:
            _remember(self._no_gateways, key, known)
            return None
        frozen = account is not None and account.frozen_at is not None
        config = msgspec.json.decode(row.config, type=ServedGateway)
        config = replace(config, cache_generation=row.cache_generation, frozen=frozen)
        if config.reads_calendar:
            settings = await self._database.get(lambda connection: read_settings(connection, account_id))
            config = replace(config, zones=() if settings is None else settings.zones)
        self._accounts.keep(known, known.gateways, gateway_id, config)
        return config

    async def route(self, account_id: str, gateway_id: str, name: str) -> tuple[str, Graph] | None:
        """ID and graph of the dynamic route with this name; None if there is no such route that can be called."""
        if len(name) > NAME_MAX:  # no route has a longer name, and misses are not cached
            return None
        known, key = self._accounts.of(account_id), (gateway_id, name)
        if key in known.routes:
            return known.routes[key]
        row = await self._database.get(lambda connection: find_route_named(connection, account_id, gateway_id, name))
        route = None
        if row is not None and row.version.valid:
            route = row.route_id, graph_of(msgspec.json.decode(row.version.elements, type=list[Element]))
        self._accounts.keep(known, known.routes, key, route)
        return route

    async def alias(self, account_id: str, gateway_id: str, name: str) -> Graph | None:
        """The route that a model alias of the gateway, or else of the account, stands for; None if there is none."""
        if len(name) > NAME_MAX:
            return None
        known, key = self._accounts.of(account_id), (gateway_id, name)
        if key in known.aliases:
            return known.aliases[key]
        row = await self._database.get(lambda connection: ALIASES.find(connection, account_id, gateway_id, name))
        if row is None:
            row = await self._database.get(lambda connection: ALIASES.find(connection, account_id, "", name))
        alias = None if row is None else graph_of_targets(read_targets(row.targets))
        self._accounts.keep(known, known.aliases, key, alias)
        return alias

    async def own_providers(self, account_id: str, gateway_id: str) -> OwnProviders:
        """The keys stored for the gateway, and the account's custom providers."""
        known = self._accounts.of(account_id)
        found = known.own.get(gateway_id)
        if found is None:
            found = await read_own_providers(self._database, self._vault, account_id, gateway_id)
            self._accounts.keep(known, known.own, gateway_id, found)
        return found

    async def exporters(self, account_id: str, gateway_id: str) -> Mapping[str, Exporter]:
        """Where the gateway's spans are sent, by URL. Raises DatabaseUnavailable."""
        known = self._accounts.of(account_id)
        found = known.exporters.get(gateway_id)
        if found is None:
            found = await read_exporters(self._database, self._vault, account_id, gateway_id)
            self._accounts.keep(known, known.exporters, gateway_id, found)
        return found

    async def policies(self, account_id: str, gateway_id: str) -> Policies | None:
        """The gateway's policies in force; None if there are none."""
        known = self._accounts.of(account_id)
        if gateway_id in known.policies:
            return known.policies[gateway_id]
        found = await read_policies(self._database, account_id, gateway_id)
        self._accounts.keep(known, known.policies, gateway_id, found)
        return found

    async def screening_rules(self, account_id: str, gateway_id: str, config: GatewayConfig) -> ScreeningRules:
        """The screening rules of the gateway with this configuration."""
        known = self._accounts.of(account_id)
        found = known.rules.get(gateway_id)
        if found is None:
            found = await read_rules(self._database, account_id, config)
            self._accounts.keep(known, known.rules, gateway_id, found)
        return found

    def provider(self, slug: str) -> ProviderAccess | None:
        """How to reach the provider; None if Farebox does not know it."""
        return self._providers.get(slug)

    async def _make_default(self, account_id: str) -> GatewayRow | None:
        """Create the gateway `default` if it does not exist, and return it; None if there is no such account."""
        now = self._clock.now_ms()
        row = GatewayRow(account_id, DEFAULT_GATEWAY, msgspec.json.encode(GatewayConfig()), now, now)

        def create(connection: Connection) -> GatewayRow | None:
            found = find_gateway(connection, account_id, DEFAULT_GATEWAY)
            if found is not None:
                return found
            put_gateway(connection, row)
            return find_gateway(connection, account_id, DEFAULT_GATEWAY)

        return await self._database.write(create)

    async def _load(self) -> None:
        self._drop_cached()
        active = await self._database.get(active_domains)
        self.domains = {domain.hostname: (domain.account_id, domain.gateway_id) for domain in active}
        self._domains_of = {}
        for domain in active:
            self._domains_of.setdefault(domain.account_id, []).append(domain.hostname)
        self._providers = await self._database.get(
            partial(read_operator_access, vault=self._vault, demo_url=self._demo_url)
        )
        text = await self._database.get(find_supplement)
        if text != self._supplement:
            self._price_list, self._supplement = PriceList(supplement=_supplement(text)), text
        self.prices = price_book(
            await self._database.get(list_prices),
            await self._database.get(list_markups),
            self._price_list,
            demo=self._demo_url is not None,
        )
        self._drop_cached()  # it was derived from the earlier configuration

    def _drop_cached(self) -> None:
        self._forgotten += 1
        self._database.forget_buckets(None)
        self._accounts.forget_all()
        self._tokens.clear()
        self._no_gateways.clear()


def price_book(
    prices: Iterable[PriceRow], markups: Iterable[MarkupRow], price_list: PriceList, *, demo: bool = False
) -> PriceBook:
    """The list, with the operator's own prices and markups on top."""
    return PriceBook(
        [
            OwnPrice(
                price_id=row.price_id,
                provider=row.provider,
                model=row.model,
                account_id=row.account_id,
                rates=row.rates,
                valid_from=row.valid_from,
                output_max=row.output_max,
            )
            for row in prices
        ],
        [
            OwnMarkup(row.markup_id, row.account_id, row.provider, row.model, row.parts_per_million, row.valid_from)
            for row in markups
        ],
        price_list=price_list,
        demo=demo,
    )


def _supplement(text: str) -> Supplement:
    """The loaded supplement. It was validated when it was loaded; if this release cannot read it, its own is used."""
    if not text:
        return shipped()
    try:
        return Supplement(text.encode())
    except InvalidSupplement as error:
        log.exception("the loaded price supplement cannot be parsed", why=str(error))
        return shipped()


def _remember(cache: dict[K, V], key: K, value: V) -> None:
    if len(cache) >= CACHE_MAX:
        cache.clear()
    cache[key] = value
