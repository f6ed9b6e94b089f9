"""Requests to accounts' custom domains: the host names the gateway, so the path begins with the provider.

Nothing else is served there: neither the control plane nor pages, nor paths that contain an account.
"""

import re
from collections.abc import Mapping
from typing import Final

from farebox.gateway import gateway_path
from farebox.http.client_address import Clients
from farebox.http.exchange import Exchange
from farebox.http.permits import Understood
from farebox.http.router import tidy_path
from farebox.providers.catalogue import provider_of
from farebox.providers.naming import is_custom

NOWHERE: Final = "/v1/"
"""A path of the data plane at which nothing exists."""
_PORT: Final = re.compile(r":\d*$")

Domains = Mapping[str, tuple[str, str]]
"""Host name → account and gateway."""


def gateway_of_host(domains: Domains, clients: Clients, exchange: Exchange) -> tuple[str, str] | None:
    """Account and gateway that the request's host stands for; None if it is not a custom domain."""
    host = clients.host(exchange.client, exchange.headers)
    return None if host is None else domains.get(_PORT.sub("", host.lower()).removesuffix("."))


def on_own_host(exchange: Exchange, gateway: tuple[str, str]) -> Exchange:
    """The exchange with the equivalent path on the server's own host."""
    account_id, gateway_id = gateway
    path = tidy_path(exchange.path)
    slug = path[1:].partition("/")[0]
    served = slug == "compat" or provider_of(slug) is not None or is_custom(slug)
    exchange.path = gateway_path(account_id, gateway_id) + path if served else NOWHERE
    memo = exchange.head.memo
    if isinstance(memo, Understood) and not _fits(memo, gateway if served else None):
        exchange.head.memo = None  # the name belongs to another gateway now
    return exchange


def _fits(memo: Understood, gateway: tuple[str, str] | None) -> bool:
    target = memo.target
    return gateway == (None if target is None else (target.account_id, target.gateway_id))
