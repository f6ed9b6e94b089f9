"""Payments reported by webhooks, sweeps and returning browsers. What is paid is credited, once.

Everything else is only a hint: the top-up is checked again, and the processor's state at that time counts.
"""

from functools import partial

import structlog

from farebox.billing.credit_payment import credit_once
from farebox.payments.metadata import top_up_of
from farebox.payments.model import TopUp
from farebox.payments.processor import Checkout, ProcessorInvoice
from farebox.runtime.services import Services
from farebox.storage import top_ups as store
from farebox.storage.accounts import find_account
from farebox.storage.findings import Finding, add_finding
from farebox.storage.sql import Connection

log = structlog.get_logger("farebox.top_up")


async def apply_invoice(services: Services, invoice: ProcessorInvoice) -> str:
    """Apply the state of an invoice as the processor reports it, however it was learned. Returns a code for the log:
    credited, already_credited, not_credited (there is a finding), noted (a worker checks it now), closed, or not_ours.
    """
    found = await services.database.get(partial(_find_top_up, invoice=invoice))
    if found is None:
        return await _credit_unmatched(services, invoice)
    if invoice.state == "paid":
        row, credited_now = await credit_once(services, found, invoice)
        if row.state != "paid" or row.payment_id != invoice.invoice_id:
            return "not_credited"
        return "credited" if credited_now else "already_credited"
    if found.payment_id != invoice.invoice_id or found.next_at is None:
        return "closed"
    if found.state != "declined":  # its worker checks it when it is due
        at = services.clock.now_ms()
        await services.database.write(lambda connection: store.make_due(connection, found, at))
    return "noted"


def _find_top_up(connection: Connection, invoice: ProcessorInvoice) -> TopUp | None:
    """The top-up that an invoice belongs to: by the directory of payments, else by the invoice's metadata."""
    ids = top_up_of(invoice.metadata)
    tied = store.find_by_payment(connection, invoice.invoice_id)
    return tied or (store.find(connection, *ids) if ids is not None else None)


async def _credit_unmatched(services: Services, invoice: ProcessorInvoice) -> str:
    """An invoice without a row. If it was paid for one of our accounts, it becomes a finding for the operator."""
    ids = top_up_of(invoice.metadata)
    if ids is None or await services.database.get(partial(find_account, account_id=ids[0])) is None:
        return "not_ours"
    if invoice.state != "paid":
        return "closed"
    finding = Finding(
        finding_id=f"no_top_up:{invoice.invoice_id}",
        kind="no_top_up",
        account_id=ids[0],
        payment_id=invoice.invoice_id,
        amount_cents=invoice.paid_cents,
        detail=f"paid for the purchase {ids[1]}, which is not in the books",
        found_at=services.clock.now_ms(),
    )
    await services.database.write(lambda connection: add_finding(connection, finding))
    log.error("a payment has no purchase", account=ids[0], top_up=ids[1], paid=invoice.invoice_id)
    return "not_credited"


async def apply_checkout(services: Services, checkout: Checkout) -> str:
    """Apply the state of a hosted page as the processor reports it; results as in `apply_invoice`, or `setup`: it only
    saved a card.
    """
    if checkout.mode == "setup":
        return "setup"
    if checkout.invoice is not None and checkout.invoice.state == "paid":
        return await apply_invoice(services, checkout.invoice)
    ids = top_up_of(checkout.metadata)
    found = None if ids is None else await services.database.get(lambda connection: store.find(connection, *ids))
    if found is None:
        return "not_ours"
    if found.checkout_id not in (None, checkout.checkout_id) or found.next_at is None:
        return "closed"
    at = services.clock.now_ms()
    await services.database.write(lambda connection: store.make_due(connection, found, at))
    return "noted"
