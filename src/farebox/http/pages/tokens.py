"""Access tokens: the list, when each was last used; creating, changing and revoking them.

Times are milliseconds since the Unix epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import urlencode

from farebox.calendar import DAY_MS
from farebox.errors import NOT_FOUND, Problem
from farebox.http.control import tokens as api
from farebox.http.envelope import Response
from farebox.http.pages.fields import Field, FieldGroup, shown, values_of, words_of
from farebox.http.pages.own_api import invoke, submit
from farebox.http.pages.sdk_snippets import example_model, first_call
from farebox.http.pages.table import OWNER, Fields, Shown, shell
from farebox.http.pages.token_budgets import TokenBudget, budgets_of
from farebox.http.pages.visit import Visit, last_page
from farebox.http.validation import InvalidInput, invalid, read
from farebox.model import AccessToken, Permission
from farebox.operator import tokens
from farebox.operator.administer import ActionRefused
from farebox.operator.tokens import NewToken
from farebox.storage import accounts
from farebox.storage.last_uses import uses_of
from farebox.storage.sql import Connection

TOKENS_MAX = 500
"""Most tokens of one account that can be created here."""
LIFETIMES = {"": "never", "1": "in a day", "7": "in a week", "30": "in 30 days", "90": "in 90 days", "365": "in a year"}
SAYS = {
    Permission.RUN: "call models",
    Permission.READ: "read gateways, calls, balances and charges",
    Permission.WRITE: "change gateways, buy credit with the saved card",
    Permission.BILLING_WRITE: "change cards, auto top-up and invoice details",
}
SHOWN = 30
"""Tokens that one page of the list shows."""
BUDGETS_READ = 500
"""Budgets that are read for the list: with many limits, it shows what is left of fewer tokens. The page of a token
always does."""
BUDGETS_SHOWN = 50
_NAME_MAX = 100
_FOR_DEVELOPERS = (Permission.RUN,)
"""A token has no permission that its creator lacks: `AI Gateway Read` shows purchases, cards and invoices, which are
not for developers. (The balance is: every call says what is left of it.)"""


_LIMITS = (
    Field(
        name="rate_limiting_limit",
        label="Maximum number of calls",
        kind="number",
        hint="Leave empty or enter 0 for no limit.",
    ),
    Field(name="rate_limiting_interval", label="Per how many seconds", kind="number", hint="Leave empty for 60."),
    Field(
        name="rate_limiting_technique",
        label="How calls are counted",
        kind="choice",
        options={"fixed": "by the clock", "sliding": "over a sliding window"},
    ),
)
_MODELS = Field(
    name="models",
    label="Only these models",
    kind="lines",
    wide=True,
    hint="One per line, as provider/model or provider/*. Leave empty for all.",
)
_GATEWAYS = Field(
    name="gateways",
    label="Only these gateways",
    kind="lines",
    wide=True,
    hint="One per line. Leave empty for all. Deleted gateways are removed from the list.",
)
_EXPIRES = Field(name="expires_at", label="Expires", hint="For example 2027-01-31T12:00:00Z. Leave empty for never.")

_LISTS = ("models", "gateways")


def _rate_sent(form: Mapping[str, str]) -> dict[str, Any]:
    """The rate limit to send to the API; empty fields have the API's defaults."""
    sent = {name: value for name, value in values_of(_LIMITS, form).items() if value is not None}
    return {"rate_limiting_limit": 0, **sent}


def _all_sent(form: Mapping[str, str]) -> dict[str, Any]:
    expires_at = values_of([_EXPIRES], form)["expires_at"]
    return {**_rate_sent(form), **_lists_sent(form), "expires_at": expires_at}


def _lists_sent(form: Mapping[str, str]) -> dict[str, list[str] | None]:
    """The lists that the person changed. One that is as the page showed it is not sent: meanwhile another person may
    have changed it, and an empty field would then lift a limit that this person never saw."""
    sent = {name: words_of(form.get(name, "")) for name in _LISTS}
    return {name: words or None for name, words in sent.items() if words != words_of(form.get(f"{name}:shown", ""))}


_RATE = FieldGroup(name="rate", title="Limits", fields=lambda _: (*_LIMITS, _MODELS, _GATEWAYS), body=_rate_sent)
_CHANGED = FieldGroup(
    name="token", title="Limits", fields=lambda _: (*_LIMITS, _EXPIRES, _MODELS, _GATEWAYS), body=_all_sent
)


@dataclass(frozen=True, slots=True)
class TokenLine:
    """A token as the list shows it."""

    token: AccessToken
    used_at: int | None
    active: bool
    budget: TokenBudget | None = None
    """Of its budgets, that with the smallest part left."""
    looked_at: bool = True
    """Whether its budgets were read."""


async def token_list(visit: Visit) -> Shown:
    """The account's tokens, the active ones first."""
    return await _list(visit, {permission.name.lower(): "on" for permission in offered_to(visit)[:1]})


async def _list(visit: Visit, sent: Fields, error: InvalidInput | None = None) -> Shown:
    """The page's content. `sent` fills in the form for a new token; `error`: why it was refused."""
    account_id, now = visit.account_id, visit.now
    find = dict(visit.request.query_pairs()).get("find", "").strip()[:_NAME_MAX]

    def read(connection: Connection) -> tuple[list[TokenLine], int, int, int]:
        of, page = partial(accounts.token_page, connection, account_id, now, find=find, limit=SHOWN), visit.page()
        found = of(offset=(page - 1) * SHOWN)
        if page > (last := last_page(found.total, SHOWN)):
            page, found = last, of(offset=(last - 1) * SHOWN)
        used = uses_of(connection, account_id, "token", [token.token_id for token in found.tokens])
        lines = [TokenLine(token, used.get(token.token_id), token.active(now)) for token in found.tokens]
        return lines, page, found.total, accounts.count_tokens(connection, account_id)[0]

    lines, page, total, every = await visit.services.database.scan(read)
    some = [line.token for line in lines if line.active]
    budgets = await budgets_of(visit.services, account_id, some, BUDGETS_READ)
    tightest = {token_id: found[0] for token_id, found in budgets.items() if found}
    offered = offered_to(visit)
    return {
        "lines": [
            replace(
                line,
                budget=tightest.get(line.token.token_id),
                looked_at=not line.active or line.token.token_id in budgets,
            )
            for line in lines
        ],
        "offered": [
            (permission, SAYS[permission], sent.get(permission.name.lower()) == "on") for permission in offered
        ],
        "lifetimes": LIFETIMES,
        "sent": sent,
        "find": find,
        "searched": every > SHOWN,
        "page": page,
        "further": f"/ui/tokens?{urlencode({'find': find}) + '&' if find else ''}",
        "more": total > page * SHOWN,
        "limits": shown(_RATE, values_of((*_LIMITS, _MODELS, _GATEWAYS), sent), error),
        "now": now,
    }


def offered_to(visit: Visit) -> tuple[Permission, ...]:
    """The permissions that the person may grant."""
    return tuple(SAYS) if visit.may(OWNER) else _FOR_DEVELOPERS


async def create(visit: Visit, form: Fields) -> Response:
    """Create a token, and show its secret: once, here."""
    try:
        made = await _create(visit, form)
    except InvalidInput as error:
        return shell(visit, "tokens.html", {"title": "Tokens", **await _list(visit, form, error)}, "/ui/tokens")
    services = visit.services
    await services.configuration.notice_own_change()
    call = first_call(services.base_url, visit.account_id, example_model(demo=services.configuration.demo), made.secret)
    return shell(visit, "token_made.html", {"title": "The new token", "made": made, "first_call": call}, "/ui/tokens")


async def _create(visit: Visit, form: Fields) -> NewToken:
    """Raises InvalidInput."""
    services, now = visit.services, visit.services.clock.now_ms()
    permissions = [permission for permission in offered_to(visit) if form.get(permission.name.lower()) == "on"]
    days = form.get("expires", "")
    if days not in LIFETIMES:
        raise invalid("Choose when the token expires", "body")
    if not permissions:
        raise invalid("Choose at least one permission", "body")
    limits = api.changes_of(read(_RATE.body(form), api.TokenChange, "body", strict=True))

    def job(connection: Connection) -> NewToken:
        if accounts.count_tokens(connection, visit.account_id)[0] >= TOKENS_MAX:
            raise ActionRefused(f"an account can have at most {TOKENS_MAX} tokens: the operator can create more")
        return tokens.create_token(
            connection,
            services.ids,
            services.vault,
            account_id=visit.account_id,
            permissions=permissions,
            at=now,
            name=form.get("name", "").strip()[:_NAME_MAX],
            expires_at=now + int(days) * DAY_MS if days else None,
            models=words_of(form.get("models", "")),
            gateways=words_of(form.get("gateways", "")),
            rate=limits.rate or None,
        )

    try:
        return await services.database.write(job)
    except ActionRefused as refused:
        text = str(refused)
        raise invalid(text[:1].upper() + text[1:], "body", *filter(None, [refused.of])) from refused


async def one_token(visit: Visit) -> Shown:
    """A token, with its changeable settings."""
    return await _one(visit)


async def _one(visit: Visit, sent: tuple[Fields, InvalidInput] | None = None) -> Shown:
    """The page's content. `sent`: the form that was refused, and why."""
    token_id = visit.request.path["token_id"]
    token = await visit.services.database.scan(
        partial(accounts.token_of, account_id=visit.account_id, token_id=token_id)
    )
    if token is None:
        raise Problem(NOT_FOUND, "This token does not exist")
    given = await invoke(visit, api.get, token_id=token_id)
    budgets = (await budgets_of(visit.services, visit.account_id, [token]))[token_id]
    values = {**given, "rate_limiting_interval": given["rate_limiting_interval"] or None}
    before = {name: "\n".join(given[name] or ()) for name in _LISTS}
    error = None
    if sent is not None:
        form, error = sent
        values = {**_CHANGED.body(form), **{name: words_of(form.get(name, "")) for name in _LISTS}}
        before = {name: form.get(f"{name}:shown", "") for name in _LISTS}
    return {
        "title": f"Token {token.label}",
        "token": token,
        "used_at": given["last_used_at"],
        "active": given["active"],
        "budgets": budgets[:BUDGETS_SHOWN],
        "more_budgets": len(budgets[BUDGETS_SHOWN:]),
        "settings": shown(_CHANGED, values, error),
        "before": before,
    }


async def change(visit: Visit, form: Fields) -> Response | str:
    """Change the token's rate limit, the models that it may call, the gateways that it reaches, and its expiry."""
    body, token_id = _CHANGED.body(form), visit.request.path["token_id"]
    try:
        await submit(visit, api.change, api.TokenChange, body, token_id=token_id)
    except InvalidInput as error:
        return shell(visit, "token.html", await _one(visit, (form, error)), "/ui/tokens")
    return "The token has been changed."


async def revoke(visit: Visit, form: Fields) -> str:
    """Revoke a token of the account."""
    account_id, now, token_id = visit.account_id, visit.services.clock.now_ms(), form.get("token", "")

    def job(connection: Connection) -> AccessToken | None:
        token = accounts.token_of(connection, account_id, token_id)
        if token is not None:
            accounts.revoke_token(connection, token_id, now)
        return token

    revoked = await visit.services.database.write(job)
    if revoked is None:
        raise Problem(NOT_FOUND, "This token does not exist")
    await visit.services.configuration.notice_own_change()
    return f"The token {revoked.label} has been revoked."
