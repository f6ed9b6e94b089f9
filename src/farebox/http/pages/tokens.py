"""Access tokens: what there are, when they were last used; creating and revoking them."""

import re
from dataclasses import dataclass

from farebox.calendar import DAY_MS
from farebox.errors import NOT_FOUND, VALIDATION_FAILED, Problem
from farebox.http.envelope import Response
from farebox.http.pages.table import OWNER, Fields, Shown, shell
from farebox.http.pages.visit import Visit
from farebox.model import AccessToken, Permission
from farebox.operator import tokens
from farebox.operator.administer import Refused
from farebox.operator.tokens import NewToken
from farebox.storage import accounts
from farebox.storage.last_uses import uses_of
from farebox.storage.sql import Connection

TOKENS_MAX = 500
"""Of one account, made here."""
LIFETIMES = {"": "never", "1": "in a day", "7": "in a week", "30": "in 30 days", "90": "in 90 days", "365": "in a year"}
SAYS = {
    Permission.RUN: "call models",
    Permission.READ: "read gateways, calls and money",
    Permission.WRITE: "change gateways, buy with the saved card",
    Permission.BILLING_WRITE: "change cards, auto top-up and invoice details",
}
_NAME_MAX = 100
_FOR_DEVELOPERS = (Permission.RUN, Permission.READ)
"""What is made by somebody without money cannot spend it but by calls."""


@dataclass(frozen=True, slots=True)
class TokenLine:
    """A token as the list shows it."""

    token: AccessToken
    used_at: int | None
    active: bool


async def token_list(visit: Visit) -> Shown:
    """The account's tokens, the active ones first."""
    account_id, now = visit.account_id, visit.services.clock.now_ms()

    def read(connection: Connection) -> list[TokenLine]:
        used = uses_of(connection, account_id, "token")
        found = accounts.list_tokens(connection, account_id)
        return [TokenLine(token, used.get(token.token_id), token.active(now)) for token in reversed(found)]

    lines = await visit.services.database.scan(read)
    offered = offered_to(visit)
    return {
        "lines": sorted(lines, key=lambda line: not line.active),
        "offered": [(permission, SAYS[permission]) for permission in offered],
        "lifetimes": LIFETIMES,
        "now": now,
    }


def offered_to(visit: Visit) -> tuple[Permission, ...]:
    """The permissions that somebody may give."""
    return tuple(SAYS) if visit.may(OWNER) else _FOR_DEVELOPERS


async def create(visit: Visit, form: Fields) -> Response:
    """Create a token, and show its secret: once, here."""
    services, now = visit.services, visit.services.clock.now_ms()
    permissions = [permission for permission in offered_to(visit) if form.get(permission.name.lower()) == "on"]
    name = form.get("name", "").strip()[:_NAME_MAX]
    days = form.get("expires", "")
    if days not in LIFETIMES:
        raise Problem(VALIDATION_FAILED, "Choose one of the lifetimes", path=("body", "expires"))
    if not permissions:
        raise Problem(VALIDATION_FAILED, "Choose at least one thing that the token may do", path=("body",))

    def job(connection: Connection) -> NewToken:
        if len(accounts.list_tokens(connection, visit.account_id)) >= TOKENS_MAX:
            raise Refused(f"an account has at most {TOKENS_MAX} tokens: the operator can make further ones")
        return tokens.create_token(
            connection,
            services.ids,
            services.vault,
            account_id=visit.account_id,
            permissions=permissions,
            at=now,
            name=name,
            expires_at=now + int(days) * DAY_MS if days else None,
            models=models_of(form.get("models", "")),
        )

    try:
        made = await services.database.write(job)
    except Refused as refused:
        raise Problem(VALIDATION_FAILED, str(refused)[:1].upper() + str(refused)[1:]) from refused
    await services.configuration.notice_changes()
    return shell(
        visit, "token_made.html", {"title": "The new token", "made": made, "base_url": services.base_url}, "/ui/tokens"
    )


def models_of(text: str) -> list[str]:
    """Models, one a line or separated by commas."""
    return [model for model in re.split(r"[\s,]+", text) if model]


async def revoke(visit: Visit, form: Fields) -> str:
    """Revoke a token of the account."""
    account_id, now, token_id = visit.account_id, visit.services.clock.now_ms(), form.get("token", "")

    def job(connection: Connection) -> AccessToken | None:
        own = {token.token_id: token for token in accounts.list_tokens(connection, account_id)}
        if token_id in own:
            accounts.revoke_token(connection, token_id, now)
        return own.get(token_id)

    revoked = await visit.services.database.write(job)
    if revoked is None:
        raise Problem(NOT_FOUND, "There is no such token")
    await visit.services.configuration.notice_changes()
    return f"The token {revoked.name or revoked.token_id[:8]} is revoked."
