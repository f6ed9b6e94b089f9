"""Farebox extension: whom invoices are addressed to, the state of auto top-up, and the link to the billing page."""

from typing import Annotated

import msgspec

from farebox.billing import auto_top_up, cards
from farebox.http.control.topups import check_config_allowed, disabled_reason
from farebox.http.control.wire import iso_or_none
from farebox.http.envelope import Response, ok
from farebox.http.request import Request
from farebox.identity import sessions
from farebox.model import Permission, Role
from farebox.payments.states import DISABLED_REASONS
from farebox.storage.customers import CustomerProfile

_Line = Annotated[str, msgspec.Meta(max_length=200)]


class ProfileSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Omitted fields become empty. Applies to invoices that are issued from now on."""

    name: _Line = ""
    email: Annotated[
        str,
        msgspec.Meta(
            max_length=254,
            pattern=r"^([^@\s]{1,64}@[^@\s]{1,189})?$",
            description="an e-mail address, such as ada@example.com",
        ),
    ] = ""
    address: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    """Lines, separated by newlines."""
    country: Annotated[str, msgspec.Meta(pattern="^([A-Z]{2})?$", description="two capital letters, such as DE")] = ""
    """ISO 3166-1, two capital letters; determines the tax."""
    tax_id: Annotated[str, msgspec.Meta(max_length=64)] = ""
    low_balance_cents: Annotated[int, msgspec.Meta(ge=0, le=10**8)] | None = None
    """A posted balance below this notifies the owner; null: the operator's threshold; 0: never."""


class BillingProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Whom the invoices are addressed to."""

    name: str
    email: str
    address: str
    country: str
    tax_id: str
    low_balance_cents: int | None


class AutoTopup(msgspec.Struct, frozen=True, kw_only=True):
    """Auto top-up in detail; all null if there is none."""

    state: str | None = None
    """active, paused (resumes by itself), action_required, suspended (resumes with a new card, or when saved again)."""
    amount_cents: int | None = None
    threshold_cents: int | None = None
    monthly_cap_cents: int | None = None
    disabled_reason: str | None = None
    meaning: str | None = None
    """A description of the reason."""
    error: str | None = None
    until: str | None = None
    """If paused: until when."""
    failures_in_a_row: int = 0
    last_failed_at: str | None = None


class BillingLink(msgspec.Struct, frozen=True):
    """Opens the owner's billing page, once and for a short time. Anyone who has the link can buy with the saved
    card."""

    url: str


async def get_profile(request: Request, _: None) -> Response:
    return _respond(await cards.profile(request.services, request.account_id))


async def set_profile(request: Request, body: ProfileSet) -> Response:
    """Replace the profile. The account's smallest and largest top-up are set by the operator, and stay."""
    before = await cards.profile(request.services, request.account_id)
    changed = msgspec.structs.replace(
        before,
        name=body.name,
        email=body.email,
        address=body.address,
        country=body.country,
        tax_id=body.tax_id,
        low_balance_cents=body.low_balance_cents,
    )
    return _respond(await cards.set_profile(request.services, request.account_id, changed))


def _respond(profile: CustomerProfile) -> Response:
    return ok(
        BillingProfile(
            name=profile.name,
            email=profile.email,
            address=profile.address,
            country=profile.country,
            tax_id=profile.tax_id,
            low_balance_cents=profile.low_balance_cents,
        )
    )


async def auto_topup(request: Request, _: None) -> Response:
    rule = await auto_top_up.rule(request.services, request.account_id)
    if rule is None:
        return ok(AutoTopup())
    reason = disabled_reason(request, rule.state, rule.reason)
    shown = AutoTopup(
        state=rule.state,
        amount_cents=rule.amount_cents,
        threshold_cents=rule.threshold_cents,
        monthly_cap_cents=rule.monthly_cap_cents,
        disabled_reason=reason,
        meaning=None if reason is None else DISABLED_REASONS.get(reason),
        error=rule.error,
        until=iso_or_none(rule.until),
        failures_in_a_row=rule.failures,
        last_failed_at=iso_or_none(rule.last_failed_at),
    )
    return ok(shown)


async def billing_link(request: Request, _: None) -> Response:
    """Refused to tokens that may not change auto top-up, because the page can."""
    check_config_allowed(request)
    assert request.caller is not None
    all_there_is = request.caller.may(request.account_id, Permission.WRITE)
    role = Role.OWNER if all_there_is else Role.BILLING  # the link gives no more rights than its creator has
    return ok(BillingLink(await sessions.billing_link(request.services, request.account_id, role)))
