"""Buying credit through Cloudflare's API: top-up, its status, its limits, auto top-up. Money is in whole cents."""

from typing import Annotated, Literal

import msgspec

from farebox.billing import auto_top_up, top_up
from farebox.errors import CONFIG_BY_TOKEN, TOP_UP_FAILED, Problem
from farebox.http.envelope import Response, ok
from farebox.http.request import Request
from farebox.http.validation import invalid

CURRENCY = "USD"
KEY_MAX = 255
RETRY_HEADER = "x-stainless-retry-count"
"""The header in which the official SDKs count attempts; above 0, the request is a retry."""


class TopupCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`amount` cents of credit; fee and tax are added. The default card is charged, or the named one."""

    amount: int
    payment_method_id: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None


class Topup(msgspec.Struct, frozen=True, kw_only=True):
    """A purchase that has been started; it may not be paid yet: query `topup/status`."""

    client_secret: str | None
    """For Stripe's own scripts, if the owner must confirm the payment; otherwise null."""
    onboarding: bool
    """Whether a card is saved."""
    payment_intent_id: str
    """The invoice's ID; the field's name is Cloudflare's."""
    brand: str | msgspec.UnsetType = msgspec.UNSET
    last4: str | msgspec.UnsetType = msgspec.UNSET
    action_url: str | msgspec.UnsetType = msgspec.UNSET
    """Farebox's own: hosted page on which the owner confirms the payment, if that is needed."""


class TopupStatusQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    payment_intent_id: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class TopupStatus(msgspec.Struct, frozen=True):
    """`completed`: the credit is available. A failed purchase returns 402 instead."""

    payment_intent_id: str
    status: Literal["completed", "pending"]


class TopupLimits(msgspec.Struct, frozen=True):
    """The smallest and the largest single top-up."""

    min_cents: int
    max_cents: int
    currency: str


class TopupConfig(msgspec.Struct, frozen=True):
    """Auto top-up: buy `amount` cents when the balance falls below `threshold` cents. All fields are null if it is not
    set up."""

    amount: int | None = None
    threshold: int | None = None
    disabledReason: str | None = None
    error: str | None = None
    lastFailedAt: int | None = None
    """Unix time in milliseconds."""


class TopupConfigSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`monthly_cap` is Farebox's own: the most that auto top-up may charge in a calendar month, in cents."""

    amount: Annotated[int, msgspec.Meta(ge=1000)]
    threshold: Annotated[int, msgspec.Meta(ge=500)]
    monthly_cap: Annotated[int, msgspec.Meta(ge=1000)] | None = None


class TopupConfigSaved(msgspec.Struct, frozen=True):
    amount: int
    threshold: int
    monthly_cap: int


class Nothing(msgspec.Struct, frozen=True):
    """An empty object."""


async def create(request: Request, body: TopupCreate) -> Response:
    """Buy credit. A retry by an SDK finds the earlier purchase and does not buy again."""
    bought = await top_up.buy(
        request.services,
        request.account_id,
        credit_cents=body.amount,
        card_id=body.payment_method_id,
        request_key=idempotency_key(request),
        retry=_is_retry(request),
    )
    shown = Topup(
        client_secret=bought.client_secret,
        onboarding=True,
        payment_intent_id=bought.payment_id or bought.top_up_id,
        brand=bought.brand or msgspec.UNSET,
        last4=bought.last4 or msgspec.UNSET,
        action_url=bought.action_url or msgspec.UNSET,
    )
    return ok(shown)


def idempotency_key(request: Request) -> str | None:
    """The `Idempotency-Key` header. Raises InvalidInput if it is too long."""
    key = (request.headers.get("idempotency-key") or "").strip()
    if len(key) > KEY_MAX:
        raise invalid(f"String must contain at most {KEY_MAX} character(s)", "header", "Idempotency-Key")
    return key or None


def _is_retry(request: Request) -> bool:
    count = request.headers.get(RETRY_HEADER) or "0"
    return count.isascii() and count.isdecimal() and int(count[:9]) > 0


async def status(request: Request, body: TopupStatusQuery) -> Response:
    """The outcome of a purchase, fetched from the processor while it is open."""
    found = await top_up.status(request.services, request.account_id, body.payment_intent_id)
    if found.state in ("failed", "canceled"):
        raise Problem(TOP_UP_FAILED, found.error or "The top-up failed. Nothing was charged.")
    return ok(TopupStatus(body.payment_intent_id, "completed" if found.state == "paid" else "pending"))


async def limits(request: Request, _: None) -> Response:
    smallest, largest = await top_up.limits(request.services, request.account_id)
    return ok(TopupLimits(smallest, largest, CURRENCY))


async def config_of(request: Request) -> TopupConfig:
    """The account's auto top-up in its wire form."""
    rule = await auto_top_up.rule(request.services, request.account_id)
    if rule is None:
        return TopupConfig()
    return TopupConfig(
        amount=rule.amount_cents,
        threshold=rule.threshold_cents,
        disabledReason=disabled_reason(request, rule.state, rule.reason),
        error=rule.error,
        lastFailedAt=rule.last_failed_at,
    )


def disabled_reason(request: Request, state: str | None, reason: str | None) -> str | None:
    """A key of payments.states.DISABLED_REASONS; None if auto top-up is working."""
    if request.services.settings.auto_topup == "off":
        return "switched_off"
    return None if state == "active" else reason


async def config(request: Request, _: None) -> Response:
    return ok(await config_of(request))


async def set_config(request: Request, body: TopupConfigSet) -> Response:
    """Switch auto top-up on, or back on; earlier errors are cleared."""
    check_config_allowed(request)
    rule = await auto_top_up.set_rule(
        request.services,
        request.account_id,
        amount_cents=body.amount,
        threshold_cents=body.threshold,
        monthly_cap_cents=body.monthly_cap,
    )
    return ok(TopupConfigSaved(rule.amount_cents, rule.threshold_cents, rule.monthly_cap_cents))


async def remove_config(request: Request, _: None) -> Response:
    """Switch auto top-up off; without effect if it is off."""
    check_config_allowed(request)
    await auto_top_up.remove_rule(request.services, request.account_id)
    return ok(Nothing())


def check_config_allowed(request: Request) -> None:
    """Raises Problem (CONFIG_BY_TOKEN) if the operator restricts this to people, and a token asks."""
    by_token = request.caller is None or request.caller.token_id is not None
    if by_token and request.services.settings.token_topup_config == "deny":  # noqa: S105 - not a secret
        raise Problem(CONFIG_BY_TOKEN, "Auto top-up cannot be changed with an access token here")
