"""Farebox extension: an account's access tokens, without their secrets; which models they may call, through which
gateways, how often, and until when. The operator, and owners on the page of tokens, create and revoke them."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from farebox.errors import ACCESS_DENIED, Problem
from farebox.http.control.wire import Moment, Paging, iso, iso_or_none, moment, require
from farebox.http.envelope import Response, ok, page
from farebox.http.request import Request
from farebox.http.validation import invalid
from farebox.model import RATE_CALLS_MAX, RATE_SECONDS_MAX, AccessToken, RateLimit
from farebox.operator import tokens
from farebox.operator.administer import ActionRefused
from farebox.operator.tokens import TOKEN_GATEWAYS_MAX, TOKEN_MODELS_MAX, TokenChanges
from farebox.storage import accounts
from farebox.storage.config import lock_configuration
from farebox.storage.last_uses import uses_of
from farebox.storage.sql import Connection


class Token(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    permissions: list[str]
    models: list[str] | None
    """The models it may call; null: all."""
    gateways: list[str] | None
    """The gateways that it may use; null: all. Empty once all of them have been deleted."""
    active: bool
    """Neither revoked nor expired."""
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None
    """Up to a minute out of date; null: never used."""
    rate_limiting_limit: int
    """Model calls per interval; 0: no limit."""
    rate_limiting_interval: int
    """Seconds."""
    rate_limiting_technique: Literal["fixed", "sliding"]


class TokenChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Changes to a token; fields that are not sent stay as they are. The rate limit has the same fields as a gateway's,
    and is set as a whole."""

    models: Annotated[list[str], msgspec.Meta(min_length=1, max_length=TOKEN_MODELS_MAX)] | UnsetType | None = UNSET
    """`provider/model` or `provider/*`; null: all."""
    gateways: Annotated[list[str], msgspec.Meta(min_length=1, max_length=TOKEN_GATEWAYS_MAX)] | UnsetType | None = UNSET
    """Existing gateways; null: all."""
    expires_at: Moment | UnsetType | None = UNSET
    """null: it never expires."""
    rate_limiting_limit: Annotated[int, msgspec.Meta(ge=0, le=RATE_CALLS_MAX)] | UnsetType = UNSET
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
    now = request.services.clock.now_ms()

    def read(connection: Connection) -> Token:
        token = _found(connection, request)
        return _wire(token, _used_at(connection, token), now)

    return ok(await request.services.database.get(read))


async def change(request: Request, body: TokenChange) -> Response:
    now = request.services.clock.now_ms()
    changes = changes_of(body)
    _check_may_widen(request, changes)

    def write(connection: Connection) -> Token:
        lock_configuration(connection)
        token = tokens.change_token(connection, _found(connection, request), changes, at=now)
        return _wire(token, _used_at(connection, token), now)

    try:
        changed = await request.services.database.write(write)
    except ActionRefused as refused:
        raise invalid(str(refused)[:1].upper() + str(refused)[1:], "body", refused.of or "expires_at") from refused
    await request.services.configuration.notice_own_change()
    return ok(changed)


def changes_of(body: TokenChange) -> TokenChanges:
    """The changes that the body asks for. Raises InvalidInput."""
    rate: RateLimit | UnsetType | None = UNSET
    if body.rate_limiting_limit is not UNSET:
        sliding = body.rate_limiting_technique == "sliding"
        limit = RateLimit(body.rate_limiting_limit, body.rate_limiting_interval, sliding)
        rate = limit if limit.calls else None
    expires_at = UNSET if body.expires_at is UNSET else moment(body.expires_at, "expires_at", "body")
    changes = TokenChanges(rate=rate, models=body.models, gateways=body.gateways, expires_at=expires_at)
    if changes == TokenChanges():
        raise invalid("Required: models, gateways, expires_at or rate_limiting_limit", "body")
    return changes


def _check_may_widen(request: Request, changes: TokenChanges) -> None:
    """A token must not lift its own limits: a token limited to certain models cannot change the models of tokens, and
    one that expires cannot change expiry; one limited to gateways cannot reach this route. Raises Problem
    (ACCESS_DENIED)."""
    caller = request.caller
    assert caller is not None
    models = caller.models is not None and changes.models is not UNSET
    if models or (caller.expires_at is not None and changes.expires_at is not UNSET):
        words = (
            "A token limited to certain models cannot change which models tokens may call: use another token"
            if models
            else "A token that expires cannot change when tokens expire: use another token"
        )
        raise Problem(ACCESS_DENIED, words)


def _found(connection: Connection, request: Request) -> AccessToken:
    """Raises Problem (NOT_FOUND)."""
    return require(accounts.token_of(connection, request.account_id, request.path["token_id"]))


def _used_at(connection: Connection, token: AccessToken) -> int | None:
    return uses_of(connection, token.account_id, "token", [token.token_id]).get(token.token_id)


def _wire(token: AccessToken, used_at: int | None, now: int) -> Token:
    return Token(
        id=token.token_id,
        name=token.name,
        permissions=sorted(token.permissions),
        models=None if token.models is None else list(token.models),
        gateways=None if token.gateways is None else list(token.gateways),
        active=token.active(now),
        created_at=iso(token.created_at),
        expires_at=iso_or_none(token.expires_at),
        revoked_at=iso_or_none(token.revoked_at),
        last_used_at=iso_or_none(used_at),
        rate_limiting_limit=0 if token.rate is None else token.rate.calls,
        rate_limiting_interval=0 if token.rate is None else token.rate.seconds,
        rate_limiting_technique="sliding" if token.rate is not None and token.rate.sliding else "fixed",
    )
