"""The configuration that the hot path needs, cached; a change by any process is seen within a second."""

from collections.abc import Iterable
from typing import TypeVar

import msgspec
import structlog

from farebox.clock import Clock
from farebox.gateway import DEFAULT_GATEWAY, GatewayConfig
from farebox.model import AccessToken, Caller, Permission
from farebox.pricing.compiler import PriceList
from farebox.pricing.pricebook import OwnMarkup, OwnPrice, PriceBook
from farebox.pricing.supplement import InvalidSupplement, Supplement, shipped
from farebox.providers.catalogue import PROVIDERS
from farebox.routing.elements import Element
from farebox.routing.graph import Graph, graph_of, graph_of_targets
from farebox.runtime.own_providers import OwnProviders, read_own_providers
from farebox.runtime.provider_access import ProviderAccess
from farebox.storage.accounts import find_token, find_user
from farebox.storage.config import (
    MarkupRow,
    PriceRow,
    config_version,
    find_supplement,
    list_markups,
    list_prices,
    list_providers,
)
from farebox.storage.database import Database
from farebox.storage.gateways import GatewayRow, find_gateway, put_gateway
from farebox.storage.model_aliases import find_alias
from farebox.storage.routes import find_route_named
from farebox.storage.sql import Connection
from farebox.vault import Vault, same

log = structlog.get_logger("farebox.configuration")

K = TypeVar("K")
V = TypeVar("V")

NAME_MAX = 64
"""Characters of the name of a dynamic route or a model alias."""
CACHE_MAX = 100_000
"""Entries of one cache. A full cache is emptied: refilling takes microseconds per entry."""


class Configuration:
    """Tokens, gateways, providers, stored keys and prices as they stand now."""

    def __init__(self, database: Database, vault: Vault, clock: Clock, *, demo_url: str | None = None) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock
        self._demo_url = demo_url
        self._version = 0
        self.edition = 0
        """How often the caches were emptied. A value read before is not cached afterwards, and what others derived from
        the configuration before is out of date."""
        self.loads = 0
        """How often all of the configuration was read."""
        self._tokens: dict[str, AccessToken] = {}
        self._gateways: dict[tuple[str, str], GatewayConfig] = {}
        self._no_gateways: dict[tuple[str, str], None] = {}
        """Cached misses: browsers repeat such requests, and anyone can send them."""
        self._aliases: dict[tuple[str, str, str], Graph | None] = {}
        """What models without a provider stand for, by account, gateway and name; None: nothing."""
        self._routes: dict[tuple[str, str, str], tuple[str, Graph] | None] = {}
        """ID and graph of deployed routes by account, gateway and name; None: there is none that can be called."""
        self._own: dict[tuple[str, str], OwnProviders] = {}
        self._providers: dict[str, ProviderAccess] = {}
        self._price_list = PriceList()
        self._supplement = ""
        """The loaded supplement that `_price_list` has; empty: the shipped one."""
        self.prices = PriceBook(price_list=self._price_list)

    @classmethod
    async def load(
        cls, database: Database, vault: Vault, clock: Clock, *, demo_url: str | None = None
    ) -> "Configuration":
        """As it is in the database now."""
        configuration = cls(database, vault, clock, demo_url=demo_url)
        await configuration.forget()
        return configuration

    async def forget(self) -> None:
        """Drop what is cached; called after this process changed something."""
        version = await self._database.get(config_version)
        await self._load()
        self.loads += 1
        self._version = version  # last, so that a read that fails is repeated

    async def notice_changes(self) -> None:
        """Empty the caches if another process has changed the configuration; called more than twice a second."""
        if await self._database.get(config_version) != self._version:
            await self.forget()

    async def token(self, text: str) -> AccessToken | None:
        """The active access token with this text, or None."""
        found = self._tokens.get(text)
        if found is None:
            hashed = self._vault.hash_token(text)
            edition = self.edition
            found = await self._database.get(lambda connection: find_token(connection, hashed))
            if found is None:
                return None
            if edition == self.edition:
                _remember(self._tokens, text, found)
        return found if found.active(self._clock.now_ms()) else None

    async def user(self, email: str, key: str) -> Caller | None:
        """The user with this e-mail address and key: a member with every permission on the accounts named."""
        found = await self._database.get(lambda connection: find_user(connection, email))
        if found is None or not same(found[0], self._vault.hash_token(key)):
            return None
        return Caller(email, found[1], frozenset(Permission))

    async def gateway(self, account_id: str, gateway_id: str, *, create: bool = True) -> GatewayConfig | None:
        """The gateway's configuration, or None. `default` is created on first use, if `create`."""
        key = (account_id, gateway_id)
        config = self._gateways.get(key)
        makes = create and gateway_id == DEFAULT_GATEWAY
        if config is None and key in self._no_gateways and not makes:
            return None
        if config is None:
            edition = self.edition
            row = await self._database.get(lambda connection: find_gateway(connection, account_id, gateway_id))
            if row is not None:
                config = msgspec.json.decode(row.config, type=GatewayConfig)
            elif makes:
                config = await self._make_default(account_id)
            else:
                if edition == self.edition:
                    _remember(self._no_gateways, key, None)
                return None
            if edition == self.edition:
                _remember(self._gateways, key, config)
        return config

    async def route(self, account_id: str, gateway_id: str, name: str) -> tuple[str, Graph] | None:
        """ID and graph of the dynamic route with this name; None if there is none that can be called."""
        if len(name) > NAME_MAX:  # a longer one is not remembered either
            return None
        key = (account_id, gateway_id, name)
        if key in self._routes:
            return self._routes[key]
        edition = self.edition
        row = await self._database.get(lambda connection: find_route_named(connection, *key))
        route = None
        if row is not None and row.version.valid:
            route = row.route_id, graph_of(msgspec.json.decode(row.version.elements, type=list[Element]))
        if edition == self.edition:
            _remember(self._routes, key, route)
        return route

    async def alias(self, account_id: str, gateway_id: str, name: str) -> Graph | None:
        """What the model alias of the gateway, or else of the account, stands for; None if there is none."""
        if len(name) > NAME_MAX:
            return None
        key = (account_id, gateway_id, name)
        if key in self._aliases:
            return self._aliases[key]
        edition = self.edition
        row = await self._database.get(lambda connection: find_alias(connection, *key))
        if row is None:
            row = await self._database.get(lambda connection: find_alias(connection, account_id, "", name))
        alias = None if row is None else graph_of_targets(msgspec.json.decode(row.targets, type=list[str]))
        if edition == self.edition:
            _remember(self._aliases, key, alias)
        return alias

    async def own_providers(self, account_id: str, gateway_id: str) -> OwnProviders:
        """The keys that are stored for the gateway, and the account's custom providers."""
        key = (account_id, gateway_id)
        found = self._own.get(key)
        if found is None:
            edition = self.edition
            found = await read_own_providers(self._database, self._vault, account_id, gateway_id)
            if edition == self.edition:
                _remember(self._own, key, found)
        return found

    def provider(self, slug: str) -> ProviderAccess | None:
        """How to reach the provider; None if Farebox does not know it."""
        return self._providers.get(slug)

    async def _make_default(self, account_id: str) -> GatewayConfig:
        config = GatewayConfig()
        now = self._clock.now_ms()
        row = GatewayRow(account_id, DEFAULT_GATEWAY, msgspec.json.encode(config), now, now)

        def create(connection: Connection) -> None:
            if find_gateway(connection, account_id, DEFAULT_GATEWAY) is None:
                put_gateway(connection, row)

        await self._database.write(create)
        return config

    async def _load(self) -> None:
        self.edition += 1
        self._tokens.clear()
        self._gateways.clear()
        self._no_gateways.clear()
        self._routes.clear()
        self._aliases.clear()
        self._own.clear()
        rows = {row.name: row for row in await self._database.get(list_providers)}
        for provider in PROVIDERS:
            slug = provider.slug
            row = rows.get(slug)
            key = None if row is None or row.api_key is None else self._vault.decrypt(row.api_key, f"provider:{slug}")
            base_url = provider.base_url if row is None else row.base_url
            if slug == "demo":
                if self._demo_url is None:
                    continue
                base_url, key = self._demo_url, "demo"
            self._providers[slug] = ProviderAccess(provider, base_url, key)
        text = await self._database.get(find_supplement)
        if text != self._supplement:
            self._price_list, self._supplement = PriceList(supplement=_supplement(text)), text
        self.prices = price_book(
            await self._database.get(list_prices),
            await self._database.get(list_markups),
            self._price_list,
            demo=self._demo_url is not None,
        )
        self.edition += 1  # what was derived from a part of it


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
    """The loaded supplement. It was validated when it was loaded; a release that cannot read it uses its own."""
    if not text:
        return shipped()
    try:
        return Supplement(text.encode())
    except InvalidSupplement as error:
        log.exception("the loaded price supplement is not understood", why=str(error))
        return shipped()


def _remember(cache: dict[K, V], key: K, value: V) -> None:
    if len(cache) >= CACHE_MAX:
        cache.clear()
    cache[key] = value
