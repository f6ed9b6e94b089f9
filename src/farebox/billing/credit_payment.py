"""A paid invoice becomes credit, once: the only place where this happens, however the payment was learned of.

One transaction posts the credit, marks the top-up paid, issues the invoice, writes the notice and re-arms the rule.
"""

from collections.abc import Mapping

import structlog

from farebox.billing.documents import issue_invoice
from farebox.billing.top_up_endings import UNDER_REVIEW, notify, report, suspend
from farebox.calendar import DAY_MS
from farebox.ledger.commands import Conflict, Outcome
from farebox.ledger.commands import TopUp as CreditCommand
from farebox.ledger.posting import apply
from farebox.money import NANOS_PER_CENT
from farebox.payments.metadata import top_up_of
from farebox.payments.model import TopUp
from farebox.payments.processor import ProcessorInvoice
from farebox.payments.states import OPEN_TOP_UPS
from farebox.runtime.services import Services
from farebox.settings import Settings
from farebox.storage.accounts import account_of
from farebox.storage.customers import default_low_balance
from farebox.storage.findings import resolve_finding
from farebox.storage.sql import Connection
from farebox.storage.top_up_attempts import end_attempt
from farebox.storage.top_up_rules import change_rule, rearm, rule_of
from farebox.storage.top_ups import move, note_charge, revoke_lease, tie_payment

log = structlog.get_logger("farebox.top_up")


async def credit_once(services: Services, top_up: TopUp, invoice: ProcessorInvoice) -> tuple[TopUp, bool]:
    """Credit a paid invoice. Returns the row as it is afterwards, and whether it was credited now."""
    at = services.clock.now_ms()
    row, credited_now = await services.database.write(
        lambda connection: credit(connection, services.settings, top_up, invoice, at)
    )
    announce(services, row, invoice)
    return row, credited_now


def announce(services: Services, row: TopUp, invoice: ProcessorInvoice) -> None:
    """What follows the commit of `credit`: calls waiting for credit continue; a payment that was not credited is
    logged.
    """
    if row.state == "paid" and row.payment_id == invoice.invoice_id:
        services.waiters.wake(row.account_id)
    else:
        log.error("a payment was not credited", account=row.account_id, top_up=row.top_up_id, paid=invoice.invoice_id)


def credit(
    connection: Connection, settings: Settings, top_up: TopUp, invoice: ProcessorInvoice, at: int
) -> tuple[TopUp, bool]:
    """Credit a paid invoice, once. If it does not match the top-up, a finding is written and nothing is credited.

    A payment overrides a worker that has the row: its lease is revoked. Returns the row as it is afterwards, and
    whether it was credited now.
    """
    assert invoice.state == "paid"
    account = account_of(connection, top_up.account_id)
    current = revoke_lease(connection, top_up.account_id, top_up.top_up_id)
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
    resolve_finding(connection, f"not_void:{invoice.invoice_id}", at)
    number = issue_invoice(connection, settings, account.bucket, paid, at)
    notify(connection, paid, "top_up_paid", at, invoice_number=number)
    _after_success(connection, settings, account.bucket, paid, at)
    excess = invoice.paid_cents - paid.charge_cents
    if excess > 0:
        report(connection, "paid_too_much", paid, invoice.invoice_id, excess, "paid more", at)
    return paid, True


def _post(connection: Connection, settings: Settings, top_up: TopUp, invoice: ProcessorInvoice, at: int) -> str | None:
    """Post the credit to the account; returns why that was not possible, if it was not."""
    days = settings.credit_days
    command = CreditCommand(
        account_id=top_up.account_id,
        payment_id=invoice.invoice_id,
        amount=top_up.credit_cents * NANOS_PER_CENT,
        at=at,
        expires_at=at + days * DAY_MS if days else None,
    )
    try:
        outcome = apply(connection, command).outcome
    except Conflict:
        return "the ledger has another credit for this payment"
    return None if outcome is Outcome.DONE else f"the ledger says {outcome.value}"


def _disagreement(connection: Connection, top_up: TopUp, invoice: ProcessorInvoice) -> str | None:
    if top_up_of(invoice.metadata) != (top_up.account_id, top_up.top_up_id):
        return "the payment names another purchase"
    if top_up.payment_id not in (None, invoice.invoice_id) or top_up.state == "paid":
        return f"the purchase has the payment {top_up.payment_id}"
    if not tie_payment(connection, invoice.invoice_id, top_up.account_id, top_up.top_up_id):
        return "the payment belongs to another purchase"
    if top_up.charge_cents <= 0 or invoice.paid_cents < top_up.charge_cents:
        return f"{invoice.paid_cents} cents were paid of {top_up.charge_cents}"
    return None


def _refuse_credit(connection: Connection, top_up: TopUp, invoice: ProcessorInvoice, fault: str, at: int) -> TopUp:
    """Leave the money uncredited, for the operator to examine. The top-up ends, unless the payment is another's."""
    report(connection, "not_credited", top_up, invoice.invoice_id, invoice.paid_cents, fault, at)
    if top_up.state == "paid" or top_up.payment_id not in (None, invoice.invoice_id):
        return top_up
    text = "The payment does not match the purchase. The operator has been notified."
    if top_up.state not in OPEN_TOP_UPS:
        return move(connection, top_up, top_up.state, at, next_at=None, decline_code=UNDER_REVIEW, error=text)
    end_attempt(connection, top_up, "closed", at)
    state = "canceled" if top_up.state == "requested" else "failed"
    failed = move(connection, top_up, state, at, next_at=None, decline_code=UNDER_REVIEW, error=text)
    suspend(connection, failed, "under_review", text, at)
    return failed


def _after_success(connection: Connection, settings: Settings, bucket: int, paid: TopUp, at: int) -> None:
    """The rule's failures are reset and it is re-armed; the low-balance mark is set if there was none."""
    rule = rule_of(connection, paid.account_id)
    if rule is not None and paid.kind == "auto":
        state = "active" if rule.state == "action_required" else rule.state
        forgotten: Mapping[str, object] = {"error": None} if state == "active" else {}
        change_rule(connection, rule, state, at, failures=0, **forgotten)
    rearm(connection, bucket, paid.account_id)
    if settings.low_balance_cents:
        default_low_balance(connection, bucket, paid.account_id, settings.low_balance_cents)
