"""Billing reads. Money is in cents, fractions included, as in Cloudflare's API; each field states its time unit."""

from functools import lru_cache
from typing import Literal

import msgspec

from farebox.billing import account_reports, documents, top_up
from farebox.errors import ACCESS_DENIED, Problem
from farebox.http.control.topups import CURRENCY, TopupConfig, disabled_reason
from farebox.http.control.wire import Milliseconds, Paging
from farebox.http.envelope import Response, ok
from farebox.http.request import Request
from farebox.http.router import AccountRead
from farebox.money import nanos_to_cents
from farebox.payments.model import TopUp
from farebox.storage.credit import Credit, read_credit


class PaymentMethod(msgspec.Struct, frozen=True):
    """A saved card, as far as it may be shown."""

    brand: str | None
    last4: str | None


class CreditBalance(msgspec.Struct, frozen=True, kw_only=True):
    """The account's credit. `balance` is the posted balance in cents: what open calls hold is still part of it."""

    balance: float
    has_default_payment_method: bool
    payment_method: PaymentMethod | None
    topup_config: TopupConfig
    first_topup_success: bool
    """Whether credit was ever bought manually."""


class UsageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Times are Unix milliseconds; by default the last 31 days. A window that overlaps the requested span is reported
    in full."""

    value_grouping_window: Literal["day", "hour"]
    start_time: Milliseconds | None = None
    end_time: Milliseconds | None = None


class UsageEntry(msgspec.Struct, frozen=True):
    """What the calls of one window were charged, in cents. Times are Unix milliseconds; windows are in UTC."""

    id: str
    aggregated_value: float
    start_time: int
    end_time: int


class UsageHistory(msgspec.Struct, frozen=True):
    """Windows with usage, oldest first; empty ones are left out."""

    history: list[UsageEntry]


class InvoiceQuery(Paging, frozen=True, kw_only=True):
    """`manual`: bought manually, including hosted Checkout. Paging is Farebox's own."""

    type: Literal["all", "auto", "manual"] = "all"


class Invoice(msgspec.Struct, frozen=True, kw_only=True):
    """One purchase of credit: what the card pays in cents, fee and tax included."""

    id: str | None
    amount_due: int
    amount_paid: int
    amount_remaining: int
    currency: str
    status: Literal["open", "paid"]
    attempt_count: int
    """Number of charges attempted so far."""
    attempted: bool
    auto_advance: bool
    """Always false: Farebox decides when a charge is retried, not the processor."""
    created: int
    """Unix time in seconds."""
    created_by: Literal["auto_topup", "owner"]
    invoice_origin: Literal["auto", "manual"]
    description: str
    invoice_pdf: str | None
    """Link to the PDF, for its owner; null until it is paid."""


class InvoicePagination(msgspec.Struct, frozen=True):
    has_more: bool
    page: int
    per_page: int
    total_count: int


class InvoiceHistory(msgspec.Struct, frozen=True):
    """Purchases of credit that are paid or in progress, newest first."""

    invoices: list[Invoice]
    pagination: InvoicePagination


class Period(msgspec.Struct, frozen=True):
    """Unix times in seconds."""

    start: int
    end: int


class Pricing(msgspec.Struct, frozen=True):
    unit_amount_decimal: str | None = None


class InvoiceLine(msgspec.Struct, frozen=True, kw_only=True):
    """One model's usage: `amount` in cents, `quantity` in calls."""

    amount: float
    currency: str
    description: str | None
    period: Period
    pricing: Pricing = Pricing()
    quantity: int


class InvoicePreview(msgspec.Struct, frozen=True, kw_only=True):
    """The current month, in cents. It was paid from prepaid credit as it was used: nothing remains due."""

    id: str
    amount_due: float
    amount_paid: float
    amount_remaining: float
    currency: str
    period_start: int
    period_end: int
    status: Literal["draft", "open", "paid", "uncollectible", "void"]
    invoice_lines: list[InvoiceLine]


async def credit_balance(request: Request, _: None) -> Response:
    return await CREDIT(request)


def _shown(request: Request, credit: Credit | None) -> Response:
    if credit is None:
        raise Problem(ACCESS_DENIED, "Authentication error")
    return _credit_response(credit, disabled_reason(request, credit.rule_state, credit.rule_reason))


CREDIT = AccountRead(read_credit, _shown)


@lru_cache(maxsize=1_000)
def _credit_response(credit: Credit, disabled: str | None) -> Response:
    """The response, cached: most polls find the same credit as before, which is then not encoded again."""
    config = TopupConfig()
    if credit.amount_cents is not None:
        config = TopupConfig(
            amount=credit.amount_cents,
            threshold=credit.threshold_cents,
            disabledReason=disabled,
            error=credit.rule_error,
            lastFailedAt=credit.last_failed_at,
        )
    shown = CreditBalance(
        balance=nanos_to_cents(credit.posted),
        has_default_payment_method=credit.last4 is not None,
        payment_method=None if credit.last4 is None else PaymentMethod(credit.brand, credit.last4),
        topup_config=config,
        first_topup_success=credit.bought_by_hand,
    )
    return ok(shown)


async def usage_history(request: Request, query: UsageQuery) -> Response:
    period: Literal["hourly", "daily"] = "daily" if query.value_grouping_window == "day" else "hourly"
    start = None if query.start_time is None else int(query.start_time)
    end = None if query.end_time is None else int(query.end_time)
    found = await account_reports.usage(request.services, request.account_id, period, start, end)
    history = [
        UsageEntry(
            id=f"{query.value_grouping_window}-{window.start}",
            aggregated_value=nanos_to_cents(window.charge),
            start_time=window.start,
            end_time=window.end,
        )
        for window in found
    ]
    return ok(UsageHistory(history))


async def invoice_history(request: Request, query: InvoiceQuery) -> Response:
    window = query.window()
    found, total = await top_up.history(
        request.services, request.account_id, query.type, window.offset, window.per_page
    )
    has_more = window.offset + len(found) < total
    pagination = InvoicePagination(has_more, window.page, window.per_page, total)
    return ok(InvoiceHistory([await _invoice(request, bought) for bought in found], pagination))


async def _invoice(request: Request, bought: TopUp) -> Invoice:
    paid = bought.state == "paid"
    link = (
        await documents.document_link(request.services, request.account_id, bought.payment_id or "") if paid else None
    )
    return Invoice(
        id=bought.payment_id,
        amount_due=bought.charge_cents,
        amount_paid=bought.charge_cents if paid else 0,
        amount_remaining=0 if paid else bought.charge_cents,
        currency=CURRENCY,
        status="paid" if paid else "open",
        attempt_count=max(bought.attempt, int(paid)),
        attempted=paid or bought.attempt > 0,
        auto_advance=False,
        created=bought.created_at // 1000,
        created_by="auto_topup" if bought.kind == "auto" else "owner",
        invoice_origin="auto" if bought.kind == "auto" else "manual",
        description="Prepaid credit",
        invoice_pdf=link,
    )


async def invoice_preview(request: Request, _: None) -> Response:
    month = await account_reports.running_month(request.services, request.account_id)
    period = Period(month.start // 1000, month.end // 1000)
    total = nanos_to_cents(month.charge)
    lines = [
        InvoiceLine(
            amount=nanos_to_cents(line.charge),
            currency=CURRENCY,
            description=f"{line.provider}/{line.model}",
            period=period,
            quantity=line.calls,
        )
        for line in month.lines
    ]
    preview = InvoicePreview(
        id=f"preview-{period.start}",
        amount_due=total,
        amount_paid=total,
        amount_remaining=0,
        currency=CURRENCY,
        period_start=period.start,
        period_end=period.end,
        status="draft",
        invoice_lines=lines,
    )
    return ok(preview)
