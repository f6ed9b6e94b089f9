"""Farebox extension: saved cards, and the hosted page that saves a card or sells credit. No card data passes through
here."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from farebox.billing import cards, processor_events, top_up
from farebox.http.control.topups import idempotency_key
from farebox.http.control.wire import iso
from farebox.http.envelope import Response, ok
from farebox.http.request import Request
from farebox.http.validation import invalid
from farebox.payments.model import Card

CHECKOUT_PLACEHOLDER = "{CHECKOUT_SESSION_ID}"
"""The processor replaces it with the checkout's ID."""


class SavedCard(msgspec.Struct, frozen=True, kw_only=True):
    """A saved card, as far as it may be shown."""

    id: str
    brand: str
    last4: str
    exp_month: int
    exp_year: int
    is_default: bool
    created_at: str


class SavedCards(msgspec.Struct, frozen=True):
    payment_methods: list[SavedCard]


_Url = Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]


class CheckoutOpen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`setup` saves a card; `purchase` sells `amount_cents` of credit and saves the card too.

    The browser returns to `success_url` or `cancel_url`; by default to the billing page.
    """

    mode: Literal["setup", "purchase"]
    amount_cents: int | None = None
    success_url: _Url | None = None
    cancel_url: _Url | None = None


class OpenCheckout(msgspec.Struct, frozen=True, kw_only=True):
    """A hosted page for the owner's browser."""

    id: str | None
    url: str | None
    mode: Literal["setup", "purchase"]
    top_up_id: str | None = None


class CheckoutState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a hosted page."""

    id: str
    url: str | None
    mode: Literal["setup", "purchase"]
    state: Literal["open", "complete", "expired"]


async def list_cards(request: Request, _: None) -> Response:
    return _respond(await cards.cards(request.services, request.account_id))


async def make_default(request: Request, _: None) -> Response:
    """Charges go to this card from now on."""
    return _respond(await cards.set_default(request.services, request.account_id, request.path["card_id"]))


async def remove(request: Request, _: None) -> Response:
    return _respond(await cards.remove(request.services, request.account_id, request.path["card_id"]))


def _respond(found: list[Card]) -> Response:
    shown = [
        SavedCard(
            id=card.card_id,
            brand=card.brand,
            last4=card.last4,
            exp_month=card.exp_month,
            exp_year=card.exp_year,
            is_default=card.is_default,
            created_at=iso(card.created_at),
        )
        for card in found
    ]
    return ok(SavedCards(shown))


async def open_checkout(request: Request, body: CheckoutOpen) -> Response:
    """Returns a link to the processor's own page."""
    back = f"{request.services.base_url}/billing"
    success_url = _checked(body.success_url, "success_url") or f"{back}/done?checkout={CHECKOUT_PLACEHOLDER}"
    cancel_url = _checked(body.cancel_url, "cancel_url") or back
    if body.mode == "setup":
        if body.amount_cents is not None:
            raise invalid("Only a purchase has an amount", "body", "amount_cents")
        opened = await cards.open_setup(
            request.services, request.account_id, success_url=success_url, cancel_url=cancel_url
        )
        return ok(OpenCheckout(id=opened.checkout_id, url=opened.url, mode="setup"))
    if body.amount_cents is None:
        raise invalid("Required", "body", "amount_cents")
    bought = await top_up.buy_at_checkout(
        request.services,
        request.account_id,
        credit_cents=body.amount_cents,
        success_url=success_url,
        cancel_url=cancel_url,
        request_key=idempotency_key(request),
    )
    return ok(OpenCheckout(id=bought.checkout_id, url=bought.action_url, mode="purchase", top_up_id=bought.top_up_id))


def _checked(url: str | None, field: str) -> str | None:
    """Raises InvalidInput if the URL is not one that a browser may be sent to."""
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and url.isprintable() and " " not in url
    except ValueError:
        good = False
    if not good:
        raise invalid("Expected an http or https URL", "body", field)
    return url


async def checkout(request: Request, _: None) -> Response:
    """The state of a hosted page: fetched from the processor, and applied."""
    found = await processor_events.note_checkout(
        request.services, request.path["checkout_id"], account_id=request.account_id
    )
    mode: Literal["setup", "purchase"] = "setup" if found.mode == "setup" else "purchase"
    return ok(CheckoutState(id=found.checkout_id, url=found.url, mode=mode, state=found.state))
