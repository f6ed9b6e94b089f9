"""Whether an auto top-up is charged now, and how much: decided in the transaction that continues it.

Everything is checked again there, starting with the balance: since the request an owner may have bought credit,
switched auto top-up off, or spent more. Times (`at`) are milliseconds since the Unix epoch; months are UTC.
"""

from typing import Final

import msgspec

from farebox.billing.top_up_endings import close, set_mark, suspend
from farebox.billing.top_up_price import limits_of, price_for
from farebox.calendar import DAY_MS, month_start, next_month
from farebox.money import NANOS_PER_CENT
from farebox.payments.charge_attempts import Attempt
from farebox.payments.guards import HISTORY, Wait, check_auto, size
from farebox.payments.model import Card, TopUp, TopUpRule
from farebox.settings import Settings
from farebox.storage.accounts import account_of, find_account, posted_and_owed
from farebox.storage.customers import default_card
from farebox.storage.notices import add_notice
from farebox.storage.sql import Connection
from farebox.storage.top_up_attempts import attempts_since, begin_attempt
from farebox.storage.top_up_rules import change_rule, rule_of
from farebox.storage.top_ups import charged_since, move, postpone, voids_pending

VOID_WAIT_MS: Final = 30_000
"""How long a request waits at a time for an older invoice to be void."""
OFF_CHECK_MS: Final = DAY_MS
"""How often a rule stopped by the operator's switch is checked; a dry run then logs again what it would charge."""
NOTIFIED_PAUSES: Final = frozenset({"monthly_cap_reached", "too_many_top_ups"})
"""Pauses that the owner is notified of: they may last, and the owner can act on them."""
FROZEN: Final = "The account is frozen."
DRY_RUN: Final = "dry run"
"""The beginning of the error text of a request that a dry run stopped."""


def decide_request(connection: Connection, settings: Settings, top_up: TopUp, at: int) -> TopUp:
    """Decide a claimed request. It is returned as `submitting`, still claimed; or canceled, or postponed."""
    assert (top_up.kind, top_up.state) == ("auto", "requested")
    rule = rule_of(connection, top_up.account_id)
    if rule is None or rule.state != "active":
        return _cancel(connection, top_up, "Auto top-up has been switched off.", at)
    if settings.auto_topup == "off":
        return _pause(connection, top_up, rule, Wait("switched_off", at + OFF_CHECK_MS), at)
    if is_frozen(connection, top_up.account_id):
        return _pause(connection, top_up, rule, Wait("account_frozen", at + OFF_CHECK_MS), at)
    if voids_pending(connection, top_up.account_id):
        return postpone(connection, top_up, at, at + VOID_WAIT_MS)
    shortfall = _shortfall(connection, rule)
    if shortfall <= 0:
        return _cancel(connection, top_up, "The balance is no longer below the threshold.", at)
    card = default_card(connection, top_up.account_id)
    if card is None:
        text = "There is no card to charge."
        suspend(connection, top_up, "no_payment_method", text, at)
        return _cancel(connection, top_up, text, at)
    return _sized(connection, settings, top_up, rule, card, shortfall, at)


def _sized(
    connection: Connection, settings: Settings, top_up: TopUp, rule: TopUpRule, card: Card, shortfall: int, at: int
) -> TopUp:
    """The request as a purchase that closes the gap, where the cap and the guards allow it now."""

    def charge_of(credit_cents: int) -> int:
        return price_for(connection, settings, top_up.account_id, credit_cents).charge_cents

    credit = size(
        shortfall,
        rule.amount_cents,
        max_cents=limits_of(connection, settings, top_up.account_id)[1],
        remainder_cents=rule.monthly_cap_cents - charged_since(connection, top_up.account_id, month_start(at)),
        charge_of=charge_of,
    )
    if credit == 0:
        return _pause(connection, top_up, rule, Wait("monthly_cap_reached", next_month(at)), at)
    purchase = price_for(connection, settings, top_up.account_id, credit)
    wait = check_auto(
        _recent_attempts(connection, top_up.account_id, at),
        brand=card.brand,
        fingerprint=card.fingerprint,
        charge_cents=purchase.charge_cents,
        at=at,
    )
    if wait is not None:
        return _pause(connection, top_up, rule, wait, at)
    if settings.auto_topup == "dry_run":
        text = f"{DRY_RUN}: {purchase.charge_cents} cents would have been charged"
        return _pause(connection, top_up, rule, Wait("switched_off", at + OFF_CHECK_MS), at, text)
    return move(
        connection,
        top_up,
        "submitting",
        at,
        next_at=None,
        keep=True,
        credit_cents=purchase.credit_cents,
        fee_cents=purchase.fee_cents,
        tax_cents=purchase.tax_cents,
        lines=msgspec.json.encode(purchase),
        card_id=card.card_id,
        fingerprint=card.fingerprint,
        brand=card.brand,
        last4=card.last4,
    )


def decide_retry(connection: Connection, settings: Settings, top_up: TopUp, at: int) -> TopUp:
    """Decide about a declined charge whose wait has ended: `submitting` with a new attempt, ended, or later."""
    assert (top_up.kind, top_up.state) == ("auto", "declined")
    wanted = close_unless_wanted(connection, settings, top_up, at)
    if wanted.state == "canceled":
        return wanted
    rule = rule_of(connection, top_up.account_id)
    assert rule is not None
    if charged_since(connection, top_up.account_id, month_start(at)) + top_up.charge_cents > rule.monthly_cap_cents:
        closed = _abandon(connection, top_up, "The monthly cap is reached.", at)
        _pause_rule(connection, rule, Wait("monthly_cap_reached", next_month(at)), at, closed.error)
        return closed
    wait = check_auto(
        _recent_attempts(connection, top_up.account_id, at),
        brand=top_up.brand or "",
        fingerprint=top_up.fingerprint or "",
        charge_cents=top_up.charge_cents,
        at=at,
    )
    if wait is not None:
        return postpone(connection, top_up, at, wait.until, retry_at=wait.until)
    return begin_charge(connection, top_up, at)


def close_unless_wanted(connection: Connection, settings: Settings, top_up: TopUp, at: int) -> TopUp:
    """End a top-up that has an invoice if it is no longer wanted; else leave it as it is.

    Its invoice is voided then, which also shows the outcome of a charge that is not known: an invoice that was paid
    meanwhile is credited.
    """
    rule = rule_of(connection, top_up.account_id)
    if rule is None or rule.state != "active" or settings.auto_topup != "on":
        return _abandon(connection, top_up, "Auto top-up has been switched off.", at)
    if _shortfall(connection, rule) <= 0:
        return _abandon(connection, top_up, "The balance is no longer below the threshold.", at)
    if is_frozen(connection, top_up.account_id):
        closed = _abandon(connection, top_up, FROZEN, at)
        _pause_rule(connection, rule, Wait("account_frozen", at + OFF_CHECK_MS), at, closed.error)
        return closed
    return top_up


def begin_charge(connection: Connection, top_up: TopUp, at: int) -> TopUp:
    """Record the next attempt; the card is charged once this is committed."""
    begun = move(
        connection,
        top_up,
        "submitting",
        at,
        next_at=None,
        keep=True,
        attempt=top_up.attempt + 1,
        retry_at=None,
        first_unknown_at=None,
    )
    begin_attempt(connection, begun, at)
    return begun


def is_frozen(connection: Connection, account_id: str) -> bool:
    """Whether the operator has frozen the account: its cards are not charged."""
    account = find_account(connection, account_id)
    return account is not None and account.frozen_at is not None


def _shortfall(connection: Connection, rule: TopUpRule) -> int:
    """Nano-dollars missing to the threshold; what the account owes is missing too, as new money pays it first."""
    posted, owed = posted_and_owed(connection, rule.account_id)
    missing = rule.threshold_cents * NANOS_PER_CENT - posted
    return missing + owed if missing > 0 else 0


def _recent_attempts(connection: Connection, account_id: str, at: int) -> list[Attempt]:
    return attempts_since(connection, account_id, at - HISTORY)


def _cancel(connection: Connection, top_up: TopUp, text: str, at: int) -> TopUp:
    canceled = move(connection, top_up, "canceled", at, next_at=None, error=text)
    set_mark(connection, top_up.account_id)
    return canceled


def _abandon(connection: Connection, top_up: TopUp, text: str, at: int) -> TopUp:
    return close(connection, top_up, "canceled", at, code=top_up.decline_code, text=text)


def _pause(
    connection: Connection, top_up: TopUp, rule: TopUpRule, wait: Wait, at: int, text: str | None = None
) -> TopUp:
    """Cancel the request and pause the rule; the sweep resumes it."""
    _pause_rule(connection, rule, wait, at, rule.error)
    return _cancel(connection, top_up, text or f"Not now: {wait.reason}.", at)


def _pause_rule(connection: Connection, rule: TopUpRule, wait: Wait, at: int, error: str | None) -> None:
    until = max(wait.until, at + 1)
    change_rule(connection, rule, "paused", at, reason=wait.reason, until=until, error=error)
    account = account_of(connection, rule.account_id)
    if wait.reason in NOTIFIED_PAUSES:
        notice_id = f"auto_top_up_paused:{wait.reason}:{until}"
        content = {"reason": wait.reason, "until": until}
        add_notice(connection, account.bucket, rule.account_id, notice_id, "auto_top_up_paused", content, at)
    set_mark(connection, rule.account_id)
