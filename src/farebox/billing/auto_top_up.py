"""Auto top-up as its owner sees it: the rule, its suspension and resumption; and the sweep that resumes it.

A suspended rule does not resume after a time: a card with another fingerprint, the owner saving the rule again or, if a
payment was disputed, winning the dispute ends the suspension. A rule paused by a guard resumes when the pause ends.
"""

from functools import partial
from typing import Final

from farebox.billing.auto_top_up_decisions import OFF_CHECK_MS
from farebox.billing.top_up_endings import close
from farebox.billing.top_up_price import limits_of
from farebox.errors import NOT_FOUND, VALIDATION_FAILED, Problem
from farebox.payments.guards import CAP_FACTOR
from farebox.payments.model import TopUpRule
from farebox.quoting import quoted
from farebox.runtime.services import Services
from farebox.settings import Settings
from farebox.storage import top_up_rules as store
from farebox.storage.accounts import find_account
from farebox.storage.refunds import contested
from farebox.storage.sql import Connection
from farebox.storage.top_ups import move, open_auto, revoke_lease

AMOUNT_MIN: Final = 1_000
THRESHOLD_MIN: Final = 500
THRESHOLD_MAX: Final = 99_999_999
CAP_MAX: Final = 10**11
RESOLVED_BY_CARD: Final = frozenset({"card_declined", "no_payment_method", "authentication_required"})
SWEEP_CONCURRENCY: Final = 200


async def rule(services: Services, account_id: str) -> TopUpRule | None:
    """The account's auto top-up rule; None if it is switched off."""
    return await services.database.get(partial(store.rule_of, account_id=account_id))


async def set_rule(
    services: Services,
    account_id: str,
    *,
    amount_cents: int,
    threshold_cents: int,
    monthly_cap_cents: int | None = None,
) -> TopUpRule:
    """Switch auto top-up on, or back on: whatever stopped it is cleared. Without a cap, an earlier choice is kept.
    Charges nothing by itself.

    Raises Problem: VALIDATION_FAILED, NOT_FOUND.
    """

    def save(connection: Connection) -> TopUpRule:
        at = services.clock.now_ms()
        wanted = TopUpRule(
            account_id=account_id,
            amount_cents=amount_cents,
            threshold_cents=threshold_cents,
            monthly_cap_cents=-1 if monthly_cap_cents is None else monthly_cap_cents,
            updated_at=at,
        )
        return _set(connection, services.settings, wanted, at)

    return await services.database.write(save)


def _set(connection: Connection, settings: Settings, wanted: TopUpRule, at: int) -> TopUpRule:
    account = find_account(connection, wanted.account_id)
    if account is None:
        raise Problem(NOT_FOUND, f"There is no account {quoted(wanted.account_id)}.")
    before = store.rule_of(connection, wanted.account_id)
    low, high = limits_of(connection, settings, wanted.account_id)
    cap = _cap(before, wanted)
    _within("amount", wanted.amount_cents, max(low, AMOUNT_MIN), high)
    _within("threshold", wanted.threshold_cents, THRESHOLD_MIN, THRESHOLD_MAX)
    _within("monthly_cap", cap, wanted.amount_cents, CAP_MAX)
    saved = TopUpRule(
        account_id=wanted.account_id,
        amount_cents=wanted.amount_cents,
        threshold_cents=wanted.threshold_cents,
        monthly_cap_cents=cap,
        sequence=before.sequence if before else store.last_sequence(connection, account.bucket, account.account_id),
        updated_at=at,
    )
    store.save_rule(connection, account.bucket, saved)
    _drop_waiting(connection, wanted.account_id, "The auto top-up rule was saved again.", at)
    store.rearm(connection, account.bucket, account.account_id)
    return saved


def _cap(before: TopUpRule | None, wanted: TopUpRule) -> int:
    if wanted.monthly_cap_cents >= 0:
        return wanted.monthly_cap_cents
    if before is not None and before.monthly_cap_cents != before.amount_cents * CAP_FACTOR:
        return max(before.monthly_cap_cents, wanted.amount_cents)
    return wanted.amount_cents * CAP_FACTOR


def _within(field: str, cents: int, low: int, high: int) -> None:
    if not low <= cents <= high:
        raise Problem(VALIDATION_FAILED, f"The {field} must be from {low} to {high} cents.", path=("body", field))


async def remove_rule(services: Services, account_id: str) -> None:
    """Switch auto top-up off. A waiting request is dropped; a charge that is in progress is followed to its end."""

    def remove(connection: Connection) -> None:
        at = services.clock.now_ms()
        account = find_account(connection, account_id)
        if account is None or not store.remove_rule(connection, account_id):
            return
        _drop_request(connection, account_id, "Auto top-up was switched off.", at)
        _drop_waiting(connection, account_id, "Auto top-up was switched off.", at)
        store.rearm(connection, account.bucket, account_id)

    await services.database.write(remove)


def _drop_request(connection: Connection, account_id: str, text: str, at: int) -> None:
    """Cancel a request that no worker has claimed."""
    waiting = open_auto(connection, account_id)
    if waiting is not None and waiting.state == "requested":
        free = revoke_lease(connection, account_id, waiting.top_up_id)
        move(connection, free, "canceled", at, next_at=None, error=text)


def _drop_waiting(connection: Connection, account_id: str, text: str, at: int) -> None:
    """End an auto top-up that waits for its next attempt or for its owner; its invoice is voided before another is
    made.

    If it turns out to have been paid meanwhile, it is credited.
    """
    waiting = open_auto(connection, account_id)
    if waiting is not None and waiting.state in ("declined", "action_required"):
        free = revoke_lease(connection, account_id, waiting.top_up_id)
        close(connection, free, "canceled", at, code=free.decline_code, text=text)


# --- what suspends and resumes it -------------------------------------------------------------------------------------


def card_changed(
    connection: Connection, bucket: int, account_id: str, fingerprint: str, at: int, *, renewed: bool = False
) -> None:
    """Another card has become the default, in the same transaction. A card with another fingerprint, or a `renewed`
    one, lifts a suspension that the old card caused, and replaces the old card in a waiting top-up. While a payment is
    disputed, the dispute becomes the reason for the suspension instead.
    """
    found = store.rule_of(connection, account_id)
    if found is None:
        return
    waiting = open_auto(connection, account_id)
    if waiting is not None and (renewed or waiting.fingerprint != fingerprint):
        _drop_waiting(connection, account_id, "Another card was saved.", at)
    stopped = found.state in ("suspended", "action_required") and found.reason in RESOLVED_BY_CARD
    before = found.fingerprint or (waiting.fingerprint if waiting is not None else None)
    retrying = found.state == "active" and waiting is not None
    other = renewed or before != fingerprint
    if stopped and other and contested(connection, bucket, account_id):
        store.change_rule(
            connection, found, "suspended", at, failures=0, error=None, reason="payment_disputed", fingerprint=None
        )
    elif (stopped or retrying) and other:
        store.change_rule(connection, found, "active", at, failures=0, error=None)
    store.rearm(connection, bucket, account_id)


def freeze(connection: Connection, bucket: int, account_id: str, reason: str, at: int) -> None:
    """Stop auto top-up because of a dispute; a waiting request is dropped. A rule that was already suspended stays
    suspended.
    """
    found = store.rule_of(connection, account_id)
    if found is None or found.state == "suspended":
        return
    store.change_rule(connection, found, "suspended", at, reason=reason, until=None)
    _drop_request(connection, account_id, "Auto top-up was stopped.", at)
    _drop_waiting(connection, account_id, "Auto top-up was stopped.", at)
    store.rearm(connection, bucket, account_id)


def unfreeze(connection: Connection, bucket: int, account_id: str, reason: str, at: int) -> None:
    """Resume after a freeze for this reason; a rule stopped for another reason stays stopped."""
    found = store.rule_of(connection, account_id)
    if found is None or found.state != "suspended" or found.reason != reason:
        return
    store.change_rule(connection, found, "active", at, failures=0, error=None)
    store.rearm(connection, bucket, account_id)


# --- the sweep --------------------------------------------------------------------------------------------------------


async def sweep(services: Services) -> int:
    """Resume rules whose pause has ended, and request top-ups for armed balances below their threshold, such as when a
    rule was saved while the balance was low. Returns how many top-ups were requested.
    """
    requested, after, on = 0, "", _switched_on(services)
    while True:
        at = services.clock.now_ms()
        found = await services.database.scan(
            partial(store.rules_to_sweep, at=at, after=after, limit=SWEEP_CONCURRENCY, switched_on=on)
        )
        for account_id in found:
            requested += await services.database.write(
                partial(_wake, services=services, account_id=account_id, at=services.clock.now_ms())
            )
        if len(found) < SWEEP_CONCURRENCY:
            return requested
        after = found[-1]


def _wake(connection: Connection, services: Services, account_id: str, at: int) -> int:
    account = find_account(connection, account_id)
    found = store.rule_of(connection, account_id)
    if account is None or found is None:
        return 0
    if found.state == "paused":
        off = services.settings.auto_topup == "off" or services.processor is None
        if off or account.frozen_at is not None:
            store.change_rule(connection, found, "paused", at, until=at + OFF_CHECK_MS)
            return 0
        if not _over(services, found, at):
            return 0
        found = store.change_rule(connection, found, "active", at)
    if found.state != "active" or services.processor is None:
        return 0
    store.rearm(connection, account.bucket, account_id)
    return 0 if store.fire(connection, account.bucket, account_id, at) is None else 1


def _over(services: Services, paused: TopUpRule, at: int) -> bool:
    """Whether a pause has ended. If the operator switched auto top-up off, it ends when they switch it back on."""
    if paused.reason == "switched_off" and _switched_on(services):
        return True
    return paused.until is None or paused.until <= at


def _switched_on(services: Services) -> bool:
    return services.settings.auto_topup == "on" and services.processor is not None
