"""Farebox extension: an account's access tokens, without their secrets. The operator creates and revokes them."""

import msgspec

from farebox.http.control.wire import Paging, iso, iso_or_none
from farebox.http.envelope import Response, page
from farebox.http.request import Request
from farebox.model import AccessToken
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


async def list_all(request: Request, query: Paging) -> Response:
    account_id, now = request.account_id, request.services.clock.now_ms()

    def read(connection: Connection) -> list[Token]:
        used = uses_of(connection, account_id, "token")
        return [_wire(token, used.get(token.token_id), now) for token in accounts.list_tokens(connection, account_id)]

    found = await request.services.database.scan(read)
    window = query.window()
    return page(found[window.offset : window.offset + window.per_page], window.page, window.per_page, len(found))


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
    )
