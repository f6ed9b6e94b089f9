"""What the members of an account should act on: the first lines of the overview, each with a link to the remedy.

Amounts are nano-dollars.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import quote

from farebox.billing import auto_top_up, cards
from farebox.calls.spending import spending_limit
from farebox.calls.spending.near_limits import NearLimit, near_limits
from farebox.calls.spending.spend_alerts import described
from farebox.http.pages import labels
from farebox.http.pages.limits import rule_text, tokens_in
from farebox.http.pages.table import BUILD, MEMBERS, MONEY
from farebox.http.pages.view import Tone
from farebox.http.pages.visit import Visit
from farebox.model import AccessToken, Balance, Role
from farebox.payments.model import Card, Dispute
from farebox.storage.accounts import read_owed, token_labels, tokens_without_gateway
from farebox.storage.findings import Finding, open_findings_of
from farebox.storage.refunds import open_disputes_of
from farebox.storage.sql import Connection
from farebox.storage.top_ups import latest_paid_or_open

NEAR_PERCENT: Final = 80
"""How much of a limit is used when it is mentioned."""
EACH: Final = 5
"""Lines of one kind, at most."""
_TOP_UPS: Final = 5
_CARD_MONTHS: Final = 2
"""How long before a card expires it is mentioned."""
_VALUE_MAX: Final = 60


@dataclass(frozen=True, slots=True)
class Attention:
    """Something to act on, with a link to the remedy."""

    tone: Tone
    text: str
    action: str = ""
    path: str = ""
    roles: frozenset[Role] = MONEY
    """Who can do it; others are shown the text alone, or nothing about money."""


@dataclass(frozen=True, slots=True)
class _Stored:
    owed: int
    disputes: list[Dispute]
    findings: list[Finding]
    limits: list[Attention]
    useless: list[AccessToken]


async def attention(visit: Visit, balance: Balance, now: int) -> list[Attention]:
    """What to act on, the most urgent first. What only members with access to the account's money can act on is shown
    to them alone."""
    services = visit.services
    stored = await services.database.scan(partial(_stored, account_id=visit.account_id, at=now))
    found = [
        *_credit(balance, stored.owed, buys=services.processor is not None),
        *await _top_ups(visit),
        *_disputed(stored.disputes),
        *await _card(visit, now),
        *await _spending_limit(visit),
        *stored.limits,
        *map(_useless, stored.useless),
        *_differences(stored.findings),
    ]
    found.sort(key=lambda each: each.tone != "bad")
    return [
        each if visit.may(each.roles) else Attention(each.tone, each.text)
        for each in found
        if visit.may(each.roles) or each.roles != MONEY
    ]


def _stored(connection: Connection, account_id: str, at: int) -> _Stored:
    return _Stored(
        read_owed(connection, account_id),
        open_disputes_of(connection, account_id, EACH),
        open_findings_of(connection, account_id, EACH),
        _limits(connection, account_id, at),
        tokens_without_gateway(connection, account_id, at, EACH),
    )


# --- money ------------------------------------------------------------------------------------------------------------


def _credit(balance: Balance, owed: int, *, buys: bool) -> Iterator[Attention]:
    """`buys`: whether payments are on."""
    action, path = ("Buy credit", "/billing#buy") if buys else ("", "")
    ask = "" if buys else " Ask the operator of this server for credit."
    if balance.available <= 0 < balance.posted:
        text = "Running calls hold all the credit: further calls are refused until some of them end."
        yield Attention("warn", text, action, path)
    elif balance.available <= 0:
        yield Attention("bad", f"There is no credit left: calls are refused.{ask}", action, path)
    if owed:
        text = f"{labels.exact_usd(owed)} USD is owed: refunded credit had already been spent. The next credit pays it."
        yield Attention("warn", f"{text}{ask}", action, path)


async def _top_ups(visit: Visit) -> list[Attention]:
    services, account_id = visit.services, visit.account_id
    found: list[Attention] = []
    rule = await auto_top_up.rule(services, account_id)
    if rule is not None and rule.state == "suspended":
        why = labels.STOPPED.get(rule.reason or "", "it was stopped.")
        found.append(Attention("bad", f"Auto top-up is suspended: {why}", "Fix auto top-up", "/billing#auto"))
    for each in await services.database.scan(partial(latest_paid_or_open, account_id=account_id, limit=_TOP_UPS)):
        if each.state == "action_required" and each.kind != "checkout":
            text = f"The bank wants you to confirm a payment of {labels.usd(each.charge_cents)}."
            found.append(Attention("warn", text, "Confirm it", f"/billing/top-up?id={each.top_up_id}"))
        elif each.state == "declined":
            text = f"A payment of {labels.usd(each.charge_cents)} was declined and will be retried."
            found.append(Attention("warn", text, "Use another card", "/billing#cards"))
    return found


def _disputed(disputes: list[Dispute]) -> Iterator[Attention]:
    for each in disputes:
        about = f"A payment of {labels.usd(each.amount_cents)}"
        if each.state == "open":
            text = f"{about} is disputed at the bank. Its credit is taken back until the dispute is decided."
            yield Attention("bad", text, "See the payment", "/billing#top-ups")
        else:
            text = f"{about} is questioned by the bank. Unless this is settled, it becomes a dispute."
            yield Attention("warn", text, "See the payment", "/billing#top-ups")


async def _card(visit: Visit, now: int) -> list[Attention]:
    saved = await cards.cards(visit.services, visit.account_id)
    card = next((card for card in saved if card.is_default), None)
    if card is None or not (expiry := _expiry(card, now)):
        return []
    return [Attention("warn", f"{labels.card_name(card)} {expiry}.", "Save another card", "/billing#cards")]


def _expiry(card: Card, now: int) -> str:
    month = int(labels.month_key(now).replace("-", "")[:4]) * 12 + int(labels.month_key(now)[5:]) - 1
    left = card.exp_year * 12 + card.exp_month - 1 - month
    if left < 0:
        return "has expired"
    return f"expires at the end of {card.exp_month:02d}/{card.exp_year}" if left < _CARD_MONTHS else ""


def _differences(findings: list[Finding]) -> Iterator[Attention]:
    """What reconciliation found: the operator resolves it, and the owner can tell them what was bought."""
    for each in findings:
        amount = f" ({labels.usd(abs(each.amount_cents))})" if each.amount_cents else ""
        text = (
            f"Our books and the payment processor’s disagree about a payment{amount}. The operator is looking into it."
        )
        yield Attention("warn", text, "See the payments", "/billing#top-ups")


# --- tokens -----------------------------------------------------------------------------------------------------------


def _useless(token: AccessToken) -> Attention:
    text = f"The token {_short(token.label)} cannot reach any gateway: those it was limited to have been deleted."
    return Attention("warn", text, "See the token", f"/ui/tokens/{token.token_id}", BUILD)


# --- limits -----------------------------------------------------------------------------------------------------------


async def _spending_limit(visit: Visit) -> list[Attention]:
    limit = await spending_limit.state(visit.services, visit.account_id)
    if limit is None or (limit.spent + limit.held) * 100 < limit.limit.amount * NEAR_PERCENT:
        return []
    text = f"of the spending limit is used {labels.SPANS[limit.limit.strategy][limit.limit.duration]}."
    return [_near(limit.spent + limit.held, limit.limit.amount, text, "Change it", "/billing#limit")]


def _limits(connection: Connection, account_id: str, at: int) -> list[Attention]:
    """Limits of gateways, policies and dynamic routes that are nearly used up."""
    near = near_limits(connection, account_id, at, percent=NEAR_PERCENT, limit=EACH)
    counted = {(described(each.scope)[0].get("partition") or {}).get("token", "") for each in near}
    named = tokens_in(each.rule for each in near if each.rule is not None)
    tokens = token_labels(connection, account_id, counted | named)
    return [_limit(each, tokens) for each in near]


def _limit(near: NearLimit, tokens: dict[str, str]) -> Attention:
    of, _ = described(near.scope)
    if near.rule is not None:
        values = of.get("partition") or {}
        whose = [_short(tokens.get(value, value) if name == "token" else value) for name, value in values.items()]
        text = f"of a limit of the gateway {near.gateway_id} is used: {rule_text(near.rule, tokens)}"
        text += f" ({', '.join(whose)})." if whose else "."
        return _near(near.used, near.limit, text, "See the limits", "/ui/limits", MEMBERS)
    path = f"/ui/gateways/{quote(near.gateway_id, safe='')}"
    if of["of"] == "policy":
        text = f"of a policy’s {of['period']} limit for {_short(of['actor'])} is used (gateway {near.gateway_id})."
        return _near(near.used, near.limit, text, "See the policies", f"{path}/policies", BUILD)
    text = f"of the limit at {_short(of['element_id'])} of the dynamic route {near.route} is used"
    text += f" (gateway {near.gateway_id})."
    return _near(near.used, near.limit, text, "See the route", f"{path}/routes/{quote(of['route_id'], safe='')}", BUILD)


def _near(used: int, limit: int, text: str, action: str, path: str, roles: frozenset[Role] = MONEY) -> Attention:
    """The line about a limit. When less than a percent is left, calls may be refused already: each must fit with what
    it may cost at most."""
    percent = min(100, used * 100 // limit)
    share = "Nearly all" if percent == 99 else f"{percent} %"
    return Attention("bad" if percent >= 99 else "warn", f"{share} {text}", action, path, roles)


def _short(text: object) -> str:
    shown = str(text)
    return shown if len(shown) <= _VALUE_MAX else f"{shown[:_VALUE_MAX]}…"
