"""Farebox extension: purchases of credit and their outcome, refunds, disputes."""

from typing import Annotated

import msgspec

from farebox.billing import disputes, documents, refund, top_up
from farebox.billing.top_up_endings import public_decline_code
from farebox.errors import NOT_FOUND, Problem
from farebox.http.control.topups import idempotency_key
from farebox.http.control.wire import Paging, iso, iso_or_none
from farebox.http.envelope import Response, ok, page
from farebox.http.request import Request
from farebox.payments import model


class Purchase(msgspec.Struct, frozen=True, kw_only=True):
    """A purchase of credit. Amounts are US cents; `charge_cents` is what the card pays."""

    id: str
    payment_intent_id: str | None
    kind: str
    """manual, auto, checkout."""
    state: str
    """requested, submitting, unknown, processing, action_required, declined, paid, failed, canceled."""
    credit_cents: int
    fee_cents: int
    tax_cents: int
    charge_cents: int
    refunded_cents: int
    disputed_cents: int
    brand: str | None
    last4: str | None
    attempts: int
    decline_code: str | None
    error: str | None
    action_url: str | None
    """Hosted page on which the owner completes the purchase."""
    invoice_pdf: str | None
    created_at: str
    updated_at: str
    paid_at: str | None


class RefundCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`credit_cents` of a purchase's credit; by default all that is left of it. Fee and tax are refunded in
    proportion."""

    top_up_id: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    credit_cents: Annotated[int, msgspec.Meta(ge=1)] | None = None
    reason: Annotated[str, msgspec.Meta(max_length=500)] = ""


class Refund(msgspec.Struct, frozen=True, kw_only=True):
    """A refund to the card. `amount_cents` is what the card gets, `credit_cents` the credit that was taken."""

    id: str
    top_up_id: str
    state: str
    """requested, pending, succeeded, or failed (the credit was given back)."""
    amount_cents: int
    credit_cents: int
    reason: str
    error: str | None
    credit_note_pdf: str | None
    created_at: str
    updated_at: str


class Dispute(msgspec.Struct, frozen=True, kw_only=True):
    """A charge that the cardholder disputes at their bank. Its credit is taken while the dispute is open, or lost."""

    id: str
    top_up_id: str
    state: str
    """inquiry, open, won, lost."""
    amount_cents: int
    credit_cents: int
    reason: str
    created_at: str
    updated_at: str


async def list_purchases(request: Request, query: Paging) -> Response:
    window = query.window()
    found, total = await top_up.history(
        request.services, request.account_id, "all", window.offset, window.per_page, every=True
    )
    return page([await _purchase(request, bought) for bought in found], window.page, window.per_page, total)


async def get_purchase(request: Request, _: None) -> Response:
    """One purchase by either of its IDs; queries the processor while the purchase is open."""
    return ok(
        await _purchase(request, await top_up.status(request.services, request.account_id, request.path["top_up_id"]))
    )


async def _purchase(request: Request, bought: model.TopUp) -> Purchase:
    paid = bought.state == "paid" and bought.payment_id is not None
    return Purchase(
        id=bought.top_up_id,
        payment_intent_id=bought.payment_id,
        kind=bought.kind,
        state=bought.state,
        credit_cents=bought.credit_cents,
        fee_cents=bought.fee_cents,
        tax_cents=bought.tax_cents,
        charge_cents=bought.charge_cents,
        refunded_cents=bought.refunded_cents,
        disputed_cents=bought.disputed_cents,
        brand=bought.brand,
        last4=bought.last4,
        attempts=bought.attempt,
        decline_code=public_decline_code(bought),
        error=bought.error,
        action_url=bought.action_url,
        invoice_pdf=await documents.document_link(request.services, request.account_id, bought.payment_id or "")
        if paid
        else None,
        created_at=iso(bought.created_at),
        updated_at=iso(bought.updated_at),
        paid_at=iso_or_none(bought.paid_at),
    )


async def create_refund(request: Request, body: RefundCreate) -> Response:
    """Refund to the card; the credit is taken at once."""
    made = await refund.refund(
        request.services,
        request.account_id,
        top_up_id=body.top_up_id,
        credit_cents=body.credit_cents,
        reason=body.reason,
        request_key=idempotency_key(request),
    )
    return ok(await _refund(request, made))


async def list_refunds(request: Request, query: Paging) -> Response:
    window = query.window()
    found = await refund.refunds(request.services, request.account_id)
    part = found[window.offset : window.offset + window.per_page]
    return page([await _refund(request, made) for made in part], window.page, window.per_page, len(found))


async def get_refund(request: Request, _: None) -> Response:
    for made in await refund.refunds(request.services, request.account_id):
        if made.refund_id == request.path["refund_id"]:
            return ok(await _refund(request, made))
    raise Problem(NOT_FOUND, "Refund not found")


async def _refund(request: Request, made: model.Refund) -> Refund:
    return Refund(
        id=made.refund_id,
        top_up_id=made.top_up_id,
        state=made.state,
        amount_cents=made.amount_cents,
        credit_cents=made.credit_cents,
        reason=made.reason,
        error=made.error,
        credit_note_pdf=await documents.document_link(request.services, request.account_id, made.refund_id),
        created_at=iso(made.created_at),
        updated_at=iso(made.updated_at),
    )


async def list_disputes(request: Request, query: Paging) -> Response:
    window = query.window()
    found = await disputes.disputes(request.services, request.account_id)
    shown = [
        Dispute(
            id=dispute.dispute_id,
            top_up_id=dispute.top_up_id,
            state=dispute.state,
            amount_cents=dispute.amount_cents,
            credit_cents=dispute.credit_cents,
            reason=dispute.reason,
            created_at=iso(dispute.created_at),
            updated_at=iso(dispute.updated_at),
        )
        for dispute in found[window.offset : window.offset + window.per_page]
    ]
    return page(shown, window.page, window.per_page, len(found))
