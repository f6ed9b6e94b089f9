"""Converts Stripe's objects, as JSON, to the types of payments. Knows API 2026-10-28.endive, but no client."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote

import msgspec

from farebox.payments.model import Card
from farebox.payments.processor import (
    Checkout,
    Declined,
    InvoiceState,
    PaymentState,
    ProcessorDispute,
    ProcessorEvent,
    ProcessorInvoice,
    ProcessorLine,
    ProcessorRefund,
)

Json: TypeAlias = Mapping[str, Any]

PAYMENT_OF_INVOICE = "payments.data.payment.payment_intent"
"""Fields to expand in an invoice so that `read_invoice` sees the state of its payment."""

AUTHENTICATION = "authentication_required"
AUTHENTICATION_CODES = frozenset({AUTHENTICATION, "invoice_payment_intent_requires_action"})
"""Codes of errors that only the card's owner can resolve, by confirming the payment."""

CURRENCY: Final = "usd"

_INVOICE_STATES: Final[Mapping[str, InvoiceState]] = {
    "draft": "draft",
    "open": "open",
    "paid": "paid",
    "void": "void",
    "uncollectible": "uncollectible",
}
_PAYMENT_STATES: Final[Mapping[str, PaymentState]] = {
    "succeeded": "succeeded",
    "processing": "processing",
    "requires_capture": "processing",
    "requires_action": "action_required",
    "requires_confirmation": "none",
    "canceled": "canceled",
}
_DISPUTE_STATES: Final[Mapping[str, Literal["inquiry", "inquiry_closed", "open", "won", "lost"]]] = {
    "warning_needs_response": "inquiry",
    "warning_under_review": "inquiry",
    "warning_closed": "inquiry_closed",
    "prevented": "inquiry_closed",  # settled by a refund before money was withdrawn: the refund has its own events
    "needs_response": "open",
    "under_review": "open",
    "appeal_needs_response": "open",
    "appeal_under_review": "open",
    "won": "won",
    "lost": "lost",
}


@dataclass(frozen=True, slots=True)
class _Payment:
    """The state of an invoice's payment."""

    state: PaymentState = "none"
    intent_id: str | None = None
    charge_id: str | None = None
    client_secret: str | None = None
    decline_code: str | None = None
    decline_advice: str | None = None


def read_invoice(invoice: Json) -> ProcessorInvoice:
    """An invoice, with PAYMENT_OF_INVOICE expanded or not. If not, an unpaid one's payment is `none`."""
    state: InvoiceState = "void" if invoice.get("deleted") else _INVOICE_STATES[invoice["status"]]
    payment = _payment(invoice, state)
    return ProcessorInvoice(
        invoice_id=invoice["id"],
        state=state,
        payment_state=payment.state,
        amount_cents=_cents(invoice, "total"),
        paid_cents=_cents(invoice, "amount_paid"),
        due_cents=_cents(invoice, "amount_due"),
        customer_id=object_id(invoice.get("customer")) or "",
        metadata=invoice.get("metadata") or {},
        payment_intent_id=payment.intent_id,
        charge_id=payment.charge_id,
        client_secret=payment.client_secret,
        hosted_url=invoice.get("hosted_invoice_url"),
        decline_code=payment.decline_code,
        decline_advice=payment.decline_advice,
        created_at=_ms(invoice.get("created")),
    )


def _payment(invoice: Json, state: InvoiceState) -> _Payment:
    """The payment that paid the invoice, else the invoice's default payment."""
    payments = [item for item in (invoice.get("payments") or {}).get("data", []) if item["status"] != "canceled"]
    payments.sort(key=lambda item: (item["status"] == "paid", bool(item.get("is_default"))), reverse=True)
    intent = payments[0]["payment"].get("payment_intent") if payments else None
    if isinstance(intent, Mapping):
        return _expanded(intent, state)
    return _Payment("succeeded" if state == "paid" else "none", intent)


def _expanded(intent: Json, state: InvoiceState) -> _Payment:
    error = intent.get("last_payment_error") or {}
    code = error.get("decline_code") or error.get("code")
    found: PaymentState
    if state == "paid":
        found = "succeeded"
    elif intent["status"] == "requires_payment_method" and code is not None:
        found = "action_required" if code in AUTHENTICATION_CODES and state == "open" else "failed"
    else:
        found = _PAYMENT_STATES.get(intent["status"], "none")
    declined = found == "failed" or (found == "action_required" and code is not None)
    return _Payment(
        state=found,
        intent_id=intent["id"],
        charge_id=object_id(intent.get("latest_charge")) if found in ("succeeded", "processing") else None,
        client_secret=intent.get("client_secret"),
        decline_code=AUTHENTICATION if found == "action_required" else code if declined else None,
        decline_advice=error.get("advice_code") if declined else None,
    )


def read_card(method: Json, default_id: str | None) -> Card:
    """A payment method of type card."""
    card = method["card"]
    return Card(
        card_id=method["id"],
        brand=card["brand"],
        last4=card["last4"],
        exp_month=card["exp_month"],
        exp_year=card["exp_year"],
        fingerprint=card.get("fingerprint") or method["id"],
        is_default=method["id"] == default_id,
        created_at=_ms(method["created"]),
    )


def read_checkout(session: Json, invoice: ProcessorInvoice | None = None) -> Checkout:
    """A Checkout session, its `setup_intent` and `payment_intent` expanded if it is complete."""
    intent = session.get("setup_intent") or session.get("payment_intent")
    method = intent.get("payment_method") if isinstance(intent, Mapping) else None
    return Checkout(
        checkout_id=session["id"],
        url=session.get("url"),
        mode=session["mode"],
        state=session["status"],
        paid=session["mode"] == "payment" and session.get("payment_status") == "paid",
        customer_id=object_id(session.get("customer")),
        metadata=session.get("metadata") or {},
        card_id=object_id(method) if session["status"] == "complete" else None,
        invoice=invoice,
    )


def read_refund(refund: Json) -> ProcessorRefund:
    return ProcessorRefund(
        refund_id=refund["id"],
        state=refund["status"],
        amount_cents=_cents(refund, "amount"),
        payment_intent_id=object_id(refund.get("payment_intent")),
        charge_id=object_id(refund.get("charge")),
        metadata=refund.get("metadata") or {},
        failure=refund.get("failure_reason"),
        created_at=_ms(refund["created"]),
    )


def read_dispute(dispute: Json) -> ProcessorDispute:
    return ProcessorDispute(
        dispute_id=dispute["id"],
        state=_DISPUTE_STATES.get(dispute["status"], "inquiry"),  # an unknown state moves no money
        amount_cents=_cents(dispute, "amount"),
        payment_intent_id=object_id(dispute.get("payment_intent")),
        charge_id=object_id(dispute.get("charge")),
        reason=dispute.get("reason") or "",
        created_at=_ms(dispute["created"]),
    )


def read_event(event: Json, body: bytes) -> ProcessorEvent:
    """An event of either API version: with a snapshot of the object, or (v2) with its ID only."""
    found = (event.get("data") or {}).get("object") or event.get("related_object") or {}
    created = event.get("created")
    return ProcessorEvent(
        event_id=event["id"],
        type=event["type"],
        object_id=str(found.get("id") or ""),
        created_at=_ms(created) if isinstance(created, int) else 0,
        body=body,
    )


def object_id(value: Any) -> str | None:
    """The ID of an object, whether it is expanded or not."""
    found = value["id"] if isinstance(value, Mapping) else value
    return None if found is None else str(found)


def quoted(found: str) -> str:
    """An ID, quoted as a part of a path."""
    return quote(found, safe="")


def _cents(values: Json, name: str) -> int:
    """An amount; zero in any currency other than ours, because nothing is ever credited for it."""
    return int(values.get(name) or 0) if values.get("currency") == "usd" else 0


def _ms(seconds: int | None) -> int:
    return (seconds or 0) * 1000


def for_the_owner(invoice: ProcessorInvoice, declined: Declined) -> ProcessorInvoice:
    """The invoice, marked as one that its owner has to confirm."""
    return msgspec.structs.replace(
        invoice,
        payment_state="action_required",
        decline_code="authentication_required",
        decline_advice=declined.advice,
    )


# --- request parameters ---


def split_lines(lines: Sequence[ProcessorLine]) -> tuple[list[ProcessorLine], dict[str, Any]]:
    """The lines that cost something; the texts of the others go into the invoice's footer."""
    notes = "\n".join(line.description for line in lines if not line.amount_cents)
    return [line for line in lines if line.amount_cents], {"footer": notes} if notes else {}


def page(customer_id: str, success_url: str, cancel_url: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The parameters that both kinds of hosted page share."""
    return {
        "customer": customer_id,
        "currency": CURRENCY,
        "allowed_payment_method_types": ["card"],
        "success_url": success_url,
        "cancel_url": cancel_url,
        "metadata": dict(metadata),
    }


def error_in(body: object) -> Mapping[str, Any]:
    """The error object of a response; empty if it has none."""
    details = body.get("error") if isinstance(body, dict) else None
    return details if isinstance(details, dict) else {}
