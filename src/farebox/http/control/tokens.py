"""Farebox extension: an account's access tokens, without their secrets, and their rate limits. The operator creates and
revokes them."""

import dataclasses
from typing import Annotated, Literal

import msgspec

from farebox.http.control.wire import Paging, iso, iso_or_none, require
from farebox.http.envelope import Response, ok, page
from farebox.http.request import Request
from farebox.model import RATE_CALLS_MAX, RATE_SECONDS_MAX, AccessToken, RateLimit
from farebox.storage import accounts
from farebox.storage.last_uses import uses_of
from farebox.storage.sql import Connection


class Token(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    permissions: list[str]
    models: list[str] | None
    """The models it may call; null: all."""
    active: bool
    """Neither revoked nor expired."""
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None
    """As of a minute ago at most; null: never."""
    rate_limiting_limit: int
    """Model calls in each interval; 0: there is no limit."""
    rate_limiting_interval: int
    """Seconds."""
    rate_limiting_technique: Literal["fixed", "sliding"]


class TokenChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rate limit, in the fields of a gateway's."""

    rate_limiting_limit: Annotated[int, msgspec.Meta(ge=0, le=RATE_CALLS_MAX)]
    rate_limiting_interval: Annotated[int, msgspec.Meta(ge=1, le=RATE_SECONDS_MAX)] = 60
    rate_limiting_technique: Literal["fixed", "sliding"] = "fixed"


async def list_all(request: Request, query: Paging) -> Response:
    account_id, now = request.account_id, request.services.clock.now_ms()

    def read(connection: Connection) -> list[Token]:
        used = uses_of(connection, account_id, "token")
        return [_wire(token, used.get(token.token_id), now) for token in accounts.list_tokens(connection, account_id)]

    found = await request.services.database.scan(read)
    window = query.window()
    return page(found[window.offset : window.offset + window.per_page], window.page, window.per_page, len(found))


async def get(request: Request, _: None) -> Response:
    account_id, now = request.account_id, request.services.clock.now_ms()

    def read(connection: Connection) -> Token:
        token = _found(connection, request)
        return _wire(token, uses_of(connection, account_id, "token").get(token.token_id), now)

    return ok(await request.services.database.get(read))


async def change(request: Request, body: TokenChange) -> Response:
    account_id, now = request.account_id, request.services.clock.now_ms()
    limit = RateLimit(body.rate_limiting_limit, body.rate_limiting_interval, body.rate_limiting_technique == "sliding")

    def write(connection: Connection) -> Token:
        token = dataclasses.replace(_found(connection, request), rate=limit if limit.calls else None)
        accounts.set_token_rate(connection, token)
        return _wire(token, uses_of(connection, account_id, "token").get(token.token_id), now)

    changed = await request.services.database.write(write)
    await request.services.configuration.notice_changes()
    return ok(changed)


def _found(connection: Connection, request: Request) -> AccessToken:
    """Raises Problem (NOT_FOUND)."""
    tokens = accounts.list_tokens(connection, request.account_id)
    return require(next((token for token in tokens if token.token_id == request.path["token_id"]), None))


def _wire(token: AccessToken, used_at: int | None, now: int) -> Token:
    return Token(
        id=token.token_id,
        name=token.name,
        permissions=sorted(token.permissions),
        models=None if token.models is None else list(token.models),
        active=token.active(now),
        created_at=iso(token.created_at),
        expires_at=iso_or_none(token.expires_at),
        revoked_at=iso_or_none(token.revoked_at),
        last_used_at=iso_or_none(used_at),
        rate_limiting_limit=0 if token.rate is None else token.rate.calls,
        rate_limiting_interval=0 if token.rate is None else token.rate.seconds,
        rate_limiting_technique="sliding" if token.rate is not None and token.rate.sliding else "fixed",
    )
