"""Custom domains: host names that stand for a gateway, once a TXT record has proved that they belong to the account."""

import re
from functools import partial
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, UnsetType

from farebox.calls import logs
from farebox.clock import random_bytes
from farebox.gateway import DEFAULT_GATEWAY
from farebox.http.control.wire import Paging, require
from farebox.http.envelope import Response, ok, page
from farebox.http.request import Request
from farebox.http.validation import invalid
from farebox.operator.custom_domains import check, record_name, record_text
from farebox.storage import custom_domains as store
from farebox.storage.custom_domains import CustomDomain as Row
from farebox.storage.custom_domains import Status
from farebox.storage.gateways import find_gateway
from farebox.storage.sql import Connection

DOMAINS_MAX: Final = 50
"""Maximum custom domains of one account."""
NAME_MAX: Final = 253 - len(record_name(""))
"""Maximum characters: the name of the TXT record must be valid, too."""
_LABEL: Final = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_is_hostname = re.compile(rf"(?:{_LABEL}\.)+(?!\d+$){_LABEL}").fullmatch
"""At least two labels, the last of which is not a number, so that addresses are excluded."""


class CustomDomainCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    domain: Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_MAX)]
    zone_id: Annotated[str, msgspec.Meta(max_length=64)] | UnsetType = UNSET
    """Cloudflare's clients must send it; it has no meaning here."""
    min_tls: Any = msgspec.field(name="minTLS", default=UNSET)
    """Rejected: TLS is handled by the proxy in front."""


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """The record to publish."""

    type: Literal["TXT"] = "TXT"
    name: str
    value: str


class CustomDomain(msgspec.Struct, frozen=True, kw_only=True):
    """Times are Unix milliseconds."""

    hostname: str
    gateway_id: str
    ssl_hostname_id: str | None = None
    """Always null."""
    status: Status
    cname_target: str
    """The host that the domain's own DNS record should point to: Farebox, or the proxy in front of it."""
    verification: Verification
    created_at: int
    modified_at: int


class CustomDomainsQuery(Paging, frozen=True, kw_only=True):
    status: Literal["initializing", "pending_dcv", "active", "blocked", "error"] | None = None
    search: str = ""
    """Only host names that contain this."""


async def list_all(request: Request, query: CustomDomainsQuery) -> Response:
    account_id, gateway_id = request.account_id, request.path["gateway_id"]
    await logs.check_gateway(request.services, account_id, gateway_id)
    found = await request.services.database.scan(partial(store.list_domains, account_id=account_id))
    kept = [row for row in found if row.gateway_id == gateway_id and query.search.lower() in row.hostname]
    kept = [row for row in kept if query.status in (None, row.status)]
    window = query.window()
    shown = [_wire(request, row) for row in kept[window.offset : window.offset + window.per_page]]
    return page(shown, window.page, window.per_page, len(kept))


async def create(request: Request, body: CustomDomainCreate) -> Response:
    account_id, gateway_id = request.account_id, request.path["gateway_id"]
    await logs.check_gateway(request.services, account_id, gateway_id)
    hostname = _hostname(request, body.domain)
    if body.min_tls is not UNSET:
        raise invalid("the proxy in front of Farebox handles TLS: leave it out", "body", "minTLS")
    at = request.services.clock.now_ms()
    row = Row(hostname, account_id, gateway_id, random_bytes(16).hex(), "pending_dcv", None, at, at, at)

    def write(connection: Connection) -> None:
        if gateway_id != DEFAULT_GATEWAY:
            require(find_gateway(connection, account_id, gateway_id))  # it may have been deleted meanwhile
        others = store.list_domains(connection, account_id)
        if any(each.hostname == hostname for each in others):
            raise invalid(f"The domain '{hostname}' already exists", "body", "domain")
        if len(others) >= DOMAINS_MAX:
            raise invalid(f"An account has at most {DOMAINS_MAX} custom domains", "body", "domain")
        store.put_domain(connection, row)

    await request.services.database.write(write)
    return ok(_wire(request, row))


async def get(request: Request, _: None) -> Response:
    """The record of a domain that is not active yet is looked up first."""
    row = await request.services.database.get(partial(_find, request=request))
    if row.status in ("pending_dcv", "blocked"):
        row = require(await check(request.services, row))
    return ok(_wire(request, row))


async def delete(request: Request, _: None) -> Response:
    def write(connection: Connection) -> Row:
        row = _find(connection, request)
        store.delete_domain(connection, row)
        return row

    row = await request.services.database.write(write)
    await request.services.configuration.notice_own_change()
    return ok(_wire(request, row))


def _hostname(request: Request, text: str) -> str:
    """The host name in its stored form. Raises InvalidInput."""
    hostname = text.lower().removesuffix(".")
    if not _is_hostname(hostname):
        message = "Expected a host name such as 'ai.example.com', in ASCII (xn--…), without scheme, port or wildcard"
        raise invalid(message, "body", "domain")
    if hostname == _own_host(request):
        raise invalid("That is the host name of this server", "body", "domain")
    return hostname


def _own_host(request: Request) -> str:
    return urlsplit(request.services.base_url).hostname or ""


def _find(connection: Connection, request: Request) -> Row:
    """Raises Problem (NOT_FOUND)."""
    hostname = request.path["hostname"].lower().removesuffix(".")
    row = require(store.find_domain(connection, request.account_id, hostname))
    return require(row if row.gateway_id == request.path["gateway_id"] else None)


def _wire(request: Request, row: Row) -> CustomDomain:
    return CustomDomain(
        hostname=row.hostname,
        gateway_id=row.gateway_id,
        status=row.status,
        cname_target=_own_host(request),
        verification=Verification(name=record_name(row.hostname), value=record_text(row.token)),
        created_at=row.created_at,
        modified_at=row.modified_at,
    )
