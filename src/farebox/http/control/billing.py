"""Billing reads. Money is in cents here, fractions included, as in Cloudflare's API; times are said at each field.

Credit comes from the operator's grants in this release; what payments will fill in is null or empty, in final shape.
"""

from typing import Literal, NoReturn

import msgspec

from farebox.errors import SPENDING_LIMIT_DEPRECATED, Problem
from farebox.http.control.wire import Milliseconds
from farebox.http.envelope import Answer, ok
from farebox.http.request import Request
from farebox.money import nanos_to_cents
from farebox.usecases import reports
from farebox.usecases.reports import DAY_MS, HOUR_MS

TOPUP_MIN_CENTS = 1_000
TOPUP_MAX_CENTS = 1_000_000
CURRENCY = "USD"


class PaymentMethod(msgspec.Struct, frozen=True):
    """A saved card, as far as it may be shown."""

    brand: str | None
    last4: str | None


class TopupConfig(msgspec.Struct, frozen=True):
    """Auto top-up: buy `amount` cents when the balance is below `threshold` cents. All null: it is not set up."""

    amount: int | None = None
    threshold: int | None = None
    disabledReason: str | None = None
    error: str | None = None
    lastFailedAt: int | None = None
    """Unix time in milliseconds."""


class CreditBalance(msgspec.Struct, frozen=True, kw_only=True):
    """What the account has. `balance` is the posted balance in cents: what open calls hold is still part of it."""

    balance: float
    has_default_payment_method: bool = False
    payment_method: PaymentMethod | None = None
    topup_config: TopupConfig = TopupConfig()
    first_topup_success: bool = False


class TopupLimits(msgspec.Struct, frozen=True):
    """The smallest and the largest single top-up."""

    min_cents: int
    max_cents: int
    currency: str


class UsageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Times are Unix milliseconds; by default the last 31 days. A window that the span touches is reported whole."""

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


class InvoiceQuery(msgspec.Struct, frozen=True):
    type: Literal["all", "auto", "manual"] = "all"


class Invoice(msgspec.Struct, frozen=True, kw_only=True):
    """One purchase of credit, in cents."""

    amount_due: float
    amount_paid: float
    amount_remaining: float
    currency: str
    id: str | None = None
    status: str | None = None


class InvoicePagination(msgspec.Struct, frozen=True):
    has_more: bool = False
    page: int = 1
    per_page: int = 20
    total_count: int = 0


class InvoiceHistory(msgspec.Struct, frozen=True):
    """Purchases of credit; there are none until payments exist."""

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
    """The running month, in cents. It was paid from the prepaid credit as it was used: nothing remains due."""

    id: str
    amount_due: float
    amount_paid: float
    amount_remaining: float
    currency: str
    period_start: int
    period_end: int
    status: Literal["draft", "open", "paid", "uncollectible", "void"]
    invoice_lines: list[InvoiceLine]


class SpendingLimitConfig(msgspec.Struct, frozen=True):
    amount: int | None = None
    duration: Literal["daily", "weekly", "monthly"] | None = None
    strategy: Literal["fixed", "sliding"] | None = None


class SpendingLimit(msgspec.Struct, frozen=True):
    """The account-wide limit that Cloudflare gave up: never enabled."""

    enabled: bool = False
    config: SpendingLimitConfig = SpendingLimitConfig()


async def credit_balance(request: Request, _: None) -> Answer:
    money = reports.balance(request.services, request.account_id)
    return ok(CreditBalance(balance=nanos_to_cents(money.posted)))


async def topup_config(request: Request, _: None) -> Answer:
    return ok(TopupConfig())


async def topup_limits(request: Request, _: None) -> Answer:
    return ok(TopupLimits(TOPUP_MIN_CENTS, TOPUP_MAX_CENTS, CURRENCY))


async def usage_history(request: Request, query: UsageQuery) -> Answer:
    window_ms = DAY_MS if query.value_grouping_window == "day" else HOUR_MS
    start = None if query.start_time is None else int(query.start_time)
    end = None if query.end_time is None else int(query.end_time)
    found = await reports.usage(request.services, request.account_id, window_ms, start, end)
    history = [
        UsageEntry(
            id=f"{query.value_grouping_window}-{window.start}",
            aggregated_value=nanos_to_cents(window.charge),
            start_time=window.start,
            end_time=window.start + window_ms,
        )
        for window in found
    ]
    return ok(UsageHistory(history))


async def invoice_history(request: Request, query: InvoiceQuery) -> Answer:
    return ok(InvoiceHistory([], InvoicePagination()))


async def invoice_preview(request: Request, _: None) -> Answer:
    month = await reports.running_month(request.services, request.account_id)
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


async def spending_limit(request: Request, _: None) -> Answer:
    return ok(SpendingLimit())


async def set_spending_limit(request: Request, _: None) -> NoReturn:
    raise Problem(SPENDING_LIMIT_DEPRECATED, "Account-wide spending limits are deprecated")
