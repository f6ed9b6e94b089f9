"""What became of a top-up, written down: each function is one transaction, or the part of one.

`credit` is the only place where a payment becomes credit, whoever brings the news of it.
"""

from collections.abc import Mapping
from typing import Final

from farebox.billing.documents import issue_invoice
from farebox.ledger.commands import Conflict, Outcome
from farebox.ledger.commands import TopUp as CreditCommand
from farebox.ledger.posting import apply
from farebox.money import NANOS_PER_CENT
from farebox.payments.declines import DAY, HOUR, TRIES_MAX, classify, public_code, safe_text, wait_after
from farebox.payments.guards import FAILURES_IN_A_ROW
from farebox.payments.metadata import named_top_up
from farebox.payments.model import TopUp
from farebox.payments.processor import ProcessorInvoice
from farebox.payments.states import OPEN_TOP_UPS
from farebox.settings import Settings
from farebox.storage.accounts import find_account
from farebox.storage.findings import Finding, add_finding
from farebox.storage.notices import add_notice
from farebox.storage.sql import Connection
from farebox.storage.top_up_attempts import end_attempt
from farebox.storage.top_up_rules import change_rule, rearm, rule_of
from farebox.storage.top_ups import find, move, note_charge, postpone, seize, tie_payment

CONFIRM_MS: Final = 3 * DAY
"""How long the owner may take to confirm a payment on the hosted page."""
REFUSED: Final = "processor_refused"
"""What stands for a decline code where the processor refused the request itself, and no bank was asked."""
REFUSED_PAUSE: Final = HOUR
NOT_OURS: Final = "under_review"
"""The same, where a payment does not agree with our row."""

UNKNOWN_WAITS: Final = (1_000, HOUR)
PROCESSING_WAITS: Final = (2_000, HOUR)
CONFIRM_WAITS: Final = (5_000, HOUR // 2)
DECLINED_WAITS: Final = (HOUR // 2, HOUR)
VOID_WAITS: Final = (1_000, HOUR)


def later(at: int, since: int, waits: tuple[int, int], share: int = 1) -> int:
    """When to look again: the longer it has been, the longer the wait, within bounds. Always in the future."""
    return at + min(max((at - since) // share, waits[0]), waits[1])


# --- paid -------------------------------------------------------------------------------------------------------------


def credit(
    connection: Connection, settings: Settings, top_up: TopUp, invoice: ProcessorInvoice, at: int
) -> tuple[TopUp, bool]:
    """Credit a paid invoice, once. Where it does not agree with the top-up there is a finding and no credit.

    Returns the row as it stands then, and whether it was credited now.
    """
    assert invoice.state == "paid"
    account = find_account(connection, top_up.account_id)
    current = seize(connection, top_up.account_id, top_up.top_up_id)
    assert account is not None
    assert current is not None
    if current.state == "paid" and current.payment_id == invoice.invoice_id:
        note_charge(connection, invoice.invoice_id, invoice.payment_intent_id, invoice.charge_id)
        return current, False
    fault = _disagreement(connection, current, invoice)
    if fault is None:
        fault = _post(connection, settings, current, invoice, at)
    if fault is not None:
        return _refuse_credit(connection, current, invoice, fault, at), False
    note_charge(connection, invoice.invoice_id, invoice.payment_intent_id, invoice.charge_id)
    end_attempt(connection, current, "paid", at)
    paid = move(
        connection,
        current,
        "paid",
        at,
        next_at=None,
        payment_id=invoice.invoice_id,
        paid_at=at,
        client_secret=None,
        action_url=None,
        decline_code=None,
        error=None,
        first_unknown_at=None,
        retry_at=None,
    )
    number = issue_invoice(connection, settings, account.bucket, paid, at)
    _notice(connection, paid, "top_up_paid", at, invoice_number=number)
    _after_success(connection, settings, account.bucket, paid, at)
    if invoice.paid_cents > current.charge_cents:
        _find(
            connection,
            "paid_too_much",
            paid,
            invoice.invoice_id,
            invoice.paid_cents - paid.charge_cents,
            "paid more",
            at,
        )
    return paid, True


def _post(connection: Connection, settings: Settings, top_up: TopUp, invoice: ProcessorInvoice, at: int) -> str | None:
    """Put the credit on the account; what speaks against it, if anything does."""
    days = settings.credit_days
    command = CreditCommand(
        account_id=top_up.account_id,
        payment_id=invoice.invoice_id,
        amount=top_up.credit_cents * NANOS_PER_CENT,
        at=at,
        expires_at=at + days * DAY if days else None,
    )
    try:
        outcome = apply(connection, command).outcome
    except Conflict:
        return "the ledger has another credit for this payment"
    return None if outcome is Outcome.DONE else f"the ledger says {outcome.value}"


def _disagreement(connection: Connection, top_up: TopUp, invoice: ProcessorInvoice) -> str | None:
    if named_top_up(invoice.metadata) != (top_up.account_id, top_up.top_up_id):
        return "the payment names another purchase"
    if top_up.payment_id not in (None, invoice.invoice_id) or top_up.state == "paid":
        return f"the purchase has the payment {top_up.payment_id}"
    if not tie_payment(connection, invoice.invoice_id, top_up.account_id, top_up.top_up_id):
        return "the payment belongs to another purchase"
    if top_up.charge_cents <= 0 or invoice.paid_cents < top_up.charge_cents:
        return f"{invoice.paid_cents} cents were paid of {top_up.charge_cents}"
    return None


def _refuse_credit(connection: Connection, top_up: TopUp, invoice: ProcessorInvoice, fault: str, at: int) -> TopUp:
    """Leave the money uncredited for the operator to look at. The top-up ends, unless the payment is not its own."""
    _find(connection, "not_credited", top_up, invoice.invoice_id, invoice.paid_cents, fault, at)
    if top_up.state == "paid" or top_up.payment_id not in (None, invoice.invoice_id):
        return top_up
    text = "The payment does not agree with the purchase. The operator has been told."
    if top_up.state not in OPEN_TOP_UPS:
        return move(connection, top_up, top_up.state, at, next_at=None, decline_code=NOT_OURS, error=text)
    end_attempt(connection, top_up, "closed", at)
    state = "canceled" if top_up.state == "requested" else "failed"
    failed = move(connection, top_up, state, at, next_at=None, decline_code=NOT_OURS, error=text)
    suspend(connection, failed, "under_review", text, at)
    return failed


def _after_success(connection: Connection, settings: Settings, bucket: int, paid: TopUp, at: int) -> None:
    rule = rule_of(connection, paid.account_id)
    if rule is not None and paid.kind == "auto":
        state = "active" if rule.state == "action_required" else rule.state
        forgotten: Mapping[str, object] = {"error": None} if state == "active" else {}
        change_rule(connection, rule, state, at, failures=0, **forgotten)
    rearm(connection, bucket, paid.account_id)
    if settings.low_balance_cents:
        connection.execute(
            "UPDATE balances SET low_below = ? WHERE bucket = ? AND account_id = ? AND low_below IS NULL",
            (settings.low_balance_cents * NANOS_PER_CENT, bucket, paid.account_id),
        )


# --- not paid ---------------------------------------------------------------------------------------------------------


def unknown(connection: Connection, top_up: TopUp, at: int) -> TopUp:
    """No answer came: ask again under the same key, less and less often. It is no failure."""
    asked_at = top_up.updated_at if top_up.state == "submitting" else at
    since = asked_at if top_up.first_unknown_at is None else top_up.first_unknown_at
    return move(connection, top_up, "unknown", at, next_at=later(at, since, UNKNOWN_WAITS), first_unknown_at=since)


def processing(connection: Connection, top_up: TopUp, at: int) -> TopUp:
    since = top_up.updated_at if top_up.state == "processing" else at
    next_at = later(at, since, PROCESSING_WAITS, share=4)
    return move(connection, top_up, "processing", at, next_at=next_at, first_unknown_at=None)


def action_required(connection: Connection, top_up: TopUp, invoice: ProcessorInvoice, at: int) -> TopUp:
    """The owner is to confirm the payment on the hosted page; auto top-up rests meanwhile."""
    code = "authentication_required"
    text = safe_text(code)
    end_attempt(connection, top_up, "action_required", at, code)
    asked = move(
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
        _notice(connection, asked, "top_up_action_required", at, action_url=invoice.hosted_url)
    return asked


def still_to_confirm(connection: Connection, top_up: TopUp, at: int) -> TopUp:
    """Not confirmed yet: look again, more rarely; after three days it is over."""
    since = top_up.updated_at
    if at - since >= CONFIRM_MS:
        closed = close(connection, top_up, "canceled", at, code=top_up.decline_code, text=top_up.error)
        suspend(connection, closed, "authentication_required", safe_text("authentication_required"), at)
        return closed
    return postpone(connection, top_up, at, min(later(at, since, CONFIRM_WAITS, share=8), since + CONFIRM_MS))


def declined(connection: Connection, top_up: TopUp, code: str, advice: str | None, at: int) -> TopUp:
    """The bank said no. By hand that is the end; auto top-up may try again later, within the rules."""
    text = safe_text(code)
    end_attempt(connection, top_up, "declined", at, code)
    rule = rule_of(connection, top_up.account_id)
    if top_up.kind != "auto":
        closed = close(connection, top_up, "failed", at, code=code, text=text)
        if top_up.state != "submitting":  # whoever bought has gone
            _notice(connection, closed, "top_up_failed", at, error=text)
        return closed
    failures = (rule.failures if rule else 0) + 1
    if rule is not None:
        state = "active" if rule.state == "action_required" else rule.state  # it was confirmed, and declined after
        rule = change_rule(connection, rule, state, at, failures=failures, error=text, last_failed_at=at)
    hopeless = classify(code, advice) == "hard" or top_up.attempt >= TRIES_MAX or failures >= FAILURES_IN_A_ROW
    if hopeless or rule is None:
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


def refused(connection: Connection, top_up: TopUp, at: int) -> TopUp:
    """The processor refused the request itself: no bank was asked. Auto top-up waits an hour."""
    text = "The payment processor refused the request. Nothing was charged."
    closed = close(connection, top_up, "failed", at, code=REFUSED, text=text)
    _rest(connection, top_up, text, at)
    return closed


def not_our_price(connection: Connection, top_up: TopUp, due_cents: int, at: int) -> TopUp:
    """The processor would charge another amount, as where its customer has a balance there: nothing is charged."""
    text = (
        f"The payment processor would charge {due_cents} cents instead of {top_up.charge_cents}. Nothing was charged."
    )
    closed = close(connection, top_up, "failed", at, code=NOT_OURS, text=text)
    suspend(connection, closed, "under_review", text, at)
    return closed


def nothing_to_confirm(connection: Connection, top_up: TopUp, at: int) -> None:
    """An auto top-up came to nothing: a rule that waits for its confirmation goes on."""
    rule = rule_of(connection, top_up.account_id)
    if top_up.kind == "auto" and rule is not None and rule.state == "action_required":
        change_rule(connection, rule, "active", at)
        set_mark(connection, top_up.account_id)


def closed_there(connection: Connection, top_up: TopUp, invoice_state: str, at: int) -> TopUp:
    """Somebody canceled it at the processor. A void one cannot be paid any more; an uncollectible one is voided yet."""
    text = "The payment was canceled at the payment processor."
    closed = close(connection, top_up, "canceled", at, code=top_up.decline_code, text=text)
    rule = rule_of(connection, top_up.account_id)
    if rule is not None and rule.state == "action_required":
        suspend(connection, closed, "authentication_required", text, at)
    else:
        _rest(connection, top_up, text, at)
    return move(connection, closed, "canceled", at, next_at=None) if invoice_state == "void" else closed


def _rest(connection: Connection, top_up: TopUp, text: str, at: int) -> None:
    """Let the rule of an auto top-up rest for an hour; the sweep wakes it."""
    rule = rule_of(connection, top_up.account_id)
    if top_up.kind != "auto" or rule is None or rule.state not in ("active", "action_required"):
        return
    until = at + REFUSED_PAUSE
    change_rule(connection, rule, "paused", at, reason=REFUSED, error=text, until=until, last_failed_at=at)
    set_mark(connection, top_up.account_id)


def close(connection: Connection, top_up: TopUp, state: str, at: int, *, code: str | None, text: str | None) -> TopUp:
    """End a top-up without payment. If it has an invoice, it stays at hand, under the lease, until that is void."""
    end_attempt(connection, top_up, "closed", at)
    to_void = top_up.payment_id is not None or top_up.checkout_id is not None
    closed = move(
        connection,
        top_up,
        state,
        at,
        next_at=at if to_void else None,
        keep=to_void and top_up.lease_owner is not None,
        decline_code=code,
        error=text,
        client_secret=None,
        action_url=None,
        first_unknown_at=None,
        retry_at=None,
    )
    set_mark(connection, top_up.account_id)
    return closed


def told_code(top_up: TopUp) -> str | None:
    """Why it was declined, as far as that is told: a word of ours, or what the bank lets its owner know."""
    code = top_up.decline_code
    return code if code in (REFUSED, NOT_OURS) else public_code(code)


def set_mark(connection: Connection, account_id: str) -> None:
    """Bring the mark on the balance in line with the rule, whichever way it went."""
    account = find_account(connection, account_id)
    assert account is not None
    rearm(connection, account.bucket, account_id)


def suspend(connection: Connection, top_up: TopUp, reason: str, text: str, at: int) -> None:
    """Stop an account's auto top-up because of this one, and tell the owner once. It does not go on by itself."""
    rule = rule_of(connection, top_up.account_id)
    if top_up.kind != "auto" or rule is None or rule.state == "suspended":
        return
    change_rule(
        connection,
        rule,
        "suspended",
        at,
        reason=reason,
        error=text,
        until=None,
        last_failed_at=at,
        fingerprint=top_up.fingerprint,
    )
    set_mark(connection, top_up.account_id)
    _notice(connection, top_up, "auto_top_up_suspended", at, reason=reason, error=text)


# --- what is told -----------------------------------------------------------------------------------------------------


def _notice(connection: Connection, top_up: TopUp, kind: str, at: int, **more: object) -> None:
    account = find_account(connection, top_up.account_id)
    assert account is not None
    content: dict[str, object] = {
        "top_up_id": top_up.top_up_id,
        "payment_id": top_up.payment_id,
        "top_up_kind": top_up.kind,
        "credit_cents": top_up.credit_cents,
        "charge_cents": top_up.charge_cents,
        "brand": top_up.brand,
        "last4": top_up.last4,
    }
    add_notice(
        connection,
        account.bucket,
        account.account_id,
        f"{kind}:{top_up.top_up_id}",
        kind,
        {name: value for name, value in (content | more).items() if value is not None},
        at,
    )


def find_taken(connection: Connection, top_up: TopUp, invoice_id: str, at: int) -> None:
    """The processor answered a purchase with an invoice that belongs to another one: somebody must look."""
    _find(connection, "payment_taken", top_up, invoice_id, 0, "the invoice belongs to another purchase", at)


def _find(connection: Connection, kind: str, top_up: TopUp, invoice_id: str, cents: int, detail: str, at: int) -> None:
    finding = Finding(
        finding_id=f"{kind}:{invoice_id}",
        kind=kind,
        account_id=top_up.account_id,
        payment_id=invoice_id,
        amount_cents=cents,
        detail=f"{top_up.top_up_id}: {detail}",
        found_at=at,
    )
    add_finding(connection, finding)


def current(connection: Connection, top_up: TopUp) -> TopUp:
    """The row as it stands."""
    found = find(connection, top_up.account_id, top_up.top_up_id)
    return top_up if found is None else found
