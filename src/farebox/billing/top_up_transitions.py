"""The transitions of a top-up: what an event does to its row, its rule and its owner's notices. See `top_up_machine`.

Each function is one transaction, or a part of the caller's; none makes a network call. All have the same signature:
they take the row as the worker has it, the result of the step, and the time (`at`: milliseconds since the Unix epoch),
and return the row as it is afterwards. A transition that keeps the lease continues with the next step; one that gives
it back sets when the row is checked again. A lease that was lost meanwhile raises StaleLease, and nothing is written.
"""

from typing import Final

from farebox import backoff
from farebox.billing import auto_top_up_decisions as auto
from farebox.billing import credit_payment
from farebox.billing.top_up_endings import (
    UNDER_REVIEW,
    close,
    close_refused,
    end_confirmation,
    notify,
    pause,
    report,
    suspend,
)
from farebox.billing.top_up_steps import KEY_LIFE_MS, StepResult, failed_payment, key_age
from farebox.calendar import DAY_MS, HOUR_MS, MINUTE_MS
from farebox.payments.declines import TRIES_MAX, classify, safe_text, wait_after
from farebox.payments.guards import FAILURES_IN_A_ROW
from farebox.payments.model import TopUp
from farebox.settings import Settings
from farebox.storage.findings import resolve_finding
from farebox.storage.sql import Connection
from farebox.storage.top_up_attempts import end_attempt, latest_attempt
from farebox.storage.top_up_rules import change_rule, rule_of
from farebox.storage.top_ups import move, postpone, tie_payment

LISTINGS_APART_MS: Final = 10 * MINUTE_MS
"""Two listings this far apart must agree before a payment is considered not to exist."""
PROCESSING_MAX_MS: Final = 7 * DAY_MS
"""A payment that the processor has not shown for this long is abandoned; its invoice is voided."""
MANUAL_MAX_MS: Final = 15 * MINUTE_MS
"""A manual purchase whose card could not be charged within this time is abandoned: its buyer is no longer waiting."""
CONFIRM_MS: Final = 3 * DAY_MS
"""How long the owner may take to confirm a payment on the hosted page."""
UNSEEN_MS: Final = 15 * MINUTE_MS
"""How long a page whose URL never reached us can still be requested again; no one else can know it."""
NOT_VOID_MS: Final = HOUR_MS
"""An invoice that could not be voided for this long becomes a finding."""

UNKNOWN_WAITS: Final = (1_000, HOUR_MS)
PROCESSING_WAITS: Final = (2_000, HOUR_MS)
CONFIRM_WAITS: Final = (5_000, HOUR_MS // 2)
DECLINED_WAITS: Final = (HOUR_MS // 2, HOUR_MS)
VOID_WAITS: Final = (1_000, HOUR_MS)
PAGE_WAITS: Final = (5_000, HOUR_MS // 2)


def later(at: int, since: int, waits: tuple[int, int], share: int = 1) -> int:
    """When to check again: the longer it has been, the longer the wait, within bounds. Always in the future."""
    return at + backoff.with_age(at - since, *waits, share=share)


# --- begun ------------------------------------------------------------------------------------------------------------


def decide(connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int) -> TopUp:
    """Decide on an auto top-up's request: whether it is charged, and how much."""
    return auto.decide_request(connection, settings, top_up, at)


def link_invoice(connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int) -> TopUp:
    """Tie the invoice to the top-up permanently, in its row and in the directory of payments."""
    invoice_id = result.known_invoice.invoice_id
    if not tie_payment(connection, invoice_id, top_up.account_id, top_up.top_up_id):
        report(connection, "payment_taken", top_up, invoice_id, 0, "the invoice belongs to another purchase", at)
        return close_refused(connection, top_up, at)
    return move(connection, top_up, "submitting", at, next_at=None, keep=True, payment_id=invoice_id, unseen_at=None)


def await_listing(connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int) -> TopUp:
    """The listing does not show the invoice. If it still does not ten minutes later, the invoice was never created."""
    if top_up.unseen_at is None or at - top_up.unseen_at < LISTINGS_APART_MS:
        since = top_up.unseen_at or at
        return postpone(connection, top_up, at, max(at + 1, since + LISTINGS_APART_MS), unseen_at=since)
    text = "The payment processor never received the request. Nothing was charged."
    return close(connection, top_up, "failed", at, code=None, text=text)


# --- to be charged ----------------------------------------------------------------------------------------------------


def prepare_charge(connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int) -> TopUp:
    """Start the first attempt; or leave it as it is, to repeat the one whose response is missing; or end it."""
    invoice = result.known_invoice
    if invoice.state == "draft":  # its key has expired before it was complete: it may have no lines
        return close_never_charged(connection, top_up, at)
    if invoice.due_cents != top_up.charge_cents:
        return _close_price_mismatch(connection, top_up, invoice.due_cents, at)
    if top_up.kind == "auto":
        top_up = auto.close_unless_wanted(connection, settings, top_up, at)
        if top_up.state == "canceled":
            return top_up
    elif auto.is_frozen(connection, top_up.account_id):
        return close(connection, top_up, "canceled", at, code=None, text=auto.FROZEN)
    attempt = latest_attempt(connection, top_up)
    if attempt is None:
        return _first_attempt(connection, top_up, at)
    if at - attempt.started_at < KEY_LIFE_MS:
        return top_up
    if invoice.payment_state == "failed":
        return decline(connection, settings, top_up, failed_payment(invoice), at)
    return close_never_charged(connection, top_up, at)


def _first_attempt(connection: Connection, top_up: TopUp, at: int) -> TopUp:
    if top_up.kind == "manual" and at - top_up.created_at > MANUAL_MAX_MS:
        text = "The payment processor did not respond in time. Nothing was charged."
        return close(connection, top_up, "canceled", at, code=None, text=text)
    if key_age(top_up, at) >= KEY_LIFE_MS:
        return close_never_charged(connection, top_up, at)
    return auto.begin_charge(connection, top_up, at)


def _close_price_mismatch(connection: Connection, top_up: TopUp, due_cents: int, at: int) -> TopUp:
    """The processor would charge another amount, because its customer has a balance there: nothing is charged."""
    text = (
        f"The payment processor would charge {due_cents} cents instead of {top_up.charge_cents}. Nothing was charged."
    )
    closed = close(connection, top_up, "failed", at, code=UNDER_REVIEW, text=text)
    suspend(connection, closed, "under_review", text, at)
    return closed


def close_never_charged(connection: Connection, top_up: TopUp, at: int) -> TopUp:
    """The key has expired, and the invoice is unpaid or incomplete: voiding it makes sure that it stays so."""
    text = "The payment processor never charged the card."
    closed = close(connection, top_up, "failed", at, code=None, text=text)
    end_confirmation(connection, closed, at)
    return closed


# --- under way --------------------------------------------------------------------------------------------------------


def await_response(connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int) -> TopUp:
    """No response arrived: repeat the request under the same key, less and less often. It is not a failure."""
    requested_at = top_up.updated_at if top_up.state == "submitting" else at
    since = requested_at if top_up.first_unknown_at is None else top_up.first_unknown_at
    return move(connection, top_up, "unknown", at, next_at=later(at, since, UNKNOWN_WAITS), first_unknown_at=since)


def check_later(connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int) -> TopUp:
    """The fetch itself failed: nothing changes."""
    return postpone(connection, top_up, at, later(at, top_up.updated_at, PROCESSING_WAITS))


def await_bank(connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int) -> TopUp:
    """The payment is in progress at the bank."""
    since = top_up.updated_at if top_up.state == "processing" else at
    next_at = later(at, since, PROCESSING_WAITS, share=4)
    return move(connection, top_up, "processing", at, next_at=next_at, first_unknown_at=None)


def await_payment(connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int) -> TopUp:
    """The payment was in progress at the bank and is not shown any more: it may still reappear for a week."""
    if at - top_up.updated_at >= PROCESSING_MAX_MS:
        return close_never_charged(connection, top_up, at)
    return await_bank(connection, settings, top_up, result, at)


def require_owner_action(
    connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int
) -> TopUp:
    """The owner must confirm the payment on the hosted page; auto top-up is suspended in the meantime."""
    invoice = result.known_invoice
    code = "authentication_required"
    text = safe_text(code)
    end_attempt(connection, top_up, "action_required", at, code)
    confirming = move(
        connection,
        top_up,
        "action_required",
        at,
        next_at=later(at, at, CONFIRM_WAITS),
        client_secret=invoice.client_secret,
        action_url=invoice.hosted_url,
        decline_code=code,
        error=text,
        first_unknown_at=None,
    )
    rule = rule_of(connection, top_up.account_id)
    if top_up.kind == "auto" and rule is not None and rule.state in ("active", "paused"):
        change_rule(
            connection, rule, "action_required", at, reason="authentication_required", error=text, last_failed_at=at
        )
    if top_up.kind == "auto":
        notify(connection, confirming, "top_up_action_required", at, action_url=invoice.hosted_url)
    return confirming


def await_owner(connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int) -> TopUp:
    """Not confirmed yet: check again, less often; after three days it is abandoned."""
    since = top_up.updated_at
    if at - since >= CONFIRM_MS:
        closed = close(connection, top_up, "canceled", at, code=top_up.decline_code, text=top_up.error)
        suspend(connection, closed, "authentication_required", safe_text("authentication_required"), at)
        return closed
    return postpone(connection, top_up, at, min(later(at, since, CONFIRM_WAITS, share=8), since + CONFIRM_MS))


# --- declined, refused ------------------------------------------------------------------------------------------------


def decline(connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int) -> TopUp:
    """The bank declined. A manual purchase ends here; auto top-up may try again later, within the rules."""
    if result.event == "payment_failed":
        result = failed_payment(result.known_invoice)
    code, advice = result.decline_code, result.decline_advice
    text = safe_text(code)
    end_attempt(connection, top_up, "declined", at, code)
    rule = rule_of(connection, top_up.account_id)
    if top_up.kind != "auto":
        closed = close(connection, top_up, "failed", at, code=code, text=text)
        if top_up.state != "submitting":  # the buyer is no longer waiting
            notify(connection, closed, "top_up_failed", at, error=text)
        return closed
    failures = (rule.failures if rule else 0) + 1
    if rule is not None:
        # it was confirmed by the owner, then declined
        state = "active" if rule.state == "action_required" else rule.state
        rule = change_rule(connection, rule, state, at, failures=failures, error=text, last_failed_at=at)
    final = classify(code, advice) == "hard" or top_up.attempt >= TRIES_MAX or failures >= FAILURES_IN_A_ROW
    if final or rule is None:
        closed = close(connection, top_up, "failed", at, code=code, text=text)
        suspend(connection, closed, "card_declined", text, at)
        return closed
    retry_at = at + wait_after(top_up.attempt, advice)
    return move(
        connection,
        top_up,
        "declined",
        at,
        next_at=min(later(at, at, DECLINED_WAITS), retry_at),
        retry_at=retry_at,
        decline_code=code,
        error=text,
        first_unknown_at=None,
    )


def await_retry(connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int) -> TopUp:
    """Declined, and not paid by its owner since: keep waiting, or retry the card if that is due and allowed."""
    retry_at = top_up.retry_at or at
    if at < retry_at:
        return postpone(connection, top_up, at, min(later(at, top_up.updated_at, DECLINED_WAITS), retry_at))
    return auto.decide_retry(connection, settings, top_up, at)


def refuse(connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int) -> TopUp:
    """The processor rejected the request itself, or has no such invoice."""
    return close_refused(connection, top_up, at)


# --- ended ------------------------------------------------------------------------------------------------------------


def credit(connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int) -> TopUp:
    """The invoice is paid, whatever the top-up's state: the payment becomes credit, once."""
    row, _ = credit_payment.credit(connection, settings, top_up, result.known_invoice, at)
    return row


def close_canceled(connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int) -> TopUp:
    """The invoice was canceled at the processor. A void invoice cannot be paid any more; an uncollectible one still
    has to be voided.
    """
    text = "The payment was canceled at the payment processor."
    closed = close(connection, top_up, "canceled", at, code=top_up.decline_code, text=text)
    rule = rule_of(connection, top_up.account_id)
    if rule is not None and rule.state == "action_required":
        suspend(connection, closed, "authentication_required", text, at)
    else:
        pause(connection, top_up, text, at)
    return move(connection, closed, "canceled", at, next_at=None) if result.known_invoice.state == "void" else closed


def finish(connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int) -> TopUp:
    """The invoice can never be paid: nothing is left to do."""
    resolve_finding(connection, f"not_void:{top_up.payment_id}", at)
    return move(connection, top_up, top_up.state, at, next_at=None)


def void_later(connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int) -> TopUp:
    """The invoice may still be paid: try to void it again. Meanwhile auto top-up buys nothing else."""
    if top_up.payment_id is not None and at - top_up.updated_at >= NOT_VOID_MS:
        detail = "its invoice could not be voided, so that it may still be paid"
        report(connection, "not_void", top_up, top_up.payment_id, top_up.charge_cents, detail, at)
    return postpone(connection, top_up, at, later(at, top_up.updated_at, VOID_WAITS))


# --- on the hosted page -----------------------------------------------------------------------------------------------


def show_page(connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int) -> TopUp:
    """The page is open: its URL is stored, for its owner and for us."""
    assert result.page is not None
    return move(
        connection,
        top_up,
        "action_required",
        at,
        next_at=later(at, at, PAGE_WAITS),
        checkout_id=result.page.checkout_id,
        action_url=result.page.url,
        first_unknown_at=None,
    )


def await_buyer(connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int) -> TopUp:
    """No page is known: its requester may request it again."""
    return move(connection, top_up, "unknown", at, next_at=at + UNSEEN_MS, first_unknown_at=at)


def drop_page(connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int) -> TopUp:
    """No page is known, and it has not been requested again."""
    text = "The page to buy on was never opened."
    return move(connection, top_up, "canceled", at, next_at=None, error=text, first_unknown_at=None)


def await_page(connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int) -> TopUp:
    """The page is still open, or cannot be fetched now."""
    return postpone(connection, top_up, at, later(at, top_up.created_at, PAGE_WAITS, share=8))


def close_page(connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int) -> TopUp:
    """Nobody bought on the page while it was open."""
    text = "The page to buy on has expired."
    return move(connection, top_up, "canceled", at, next_at=None, error=text, action_url=None)
