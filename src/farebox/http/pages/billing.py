"""The billing page, and the steps of a purchase."""

import re

from farebox.billing import processor_events, top_up
from farebox.errors import NOT_FOUND, RATE_LIMITED, Problem
from farebox.http.envelope import Response
from farebox.http.pages import render
from farebox.http.pages.billing_forms import bought_text, cents
from farebox.http.pages.billing_view import load_view
from farebox.http.pages.table import Shown, redirect_with_note
from farebox.http.pages.view import Flash
from farebox.http.pages.visit import Visit, html, session_of
from farebox.http.quotas import ALL_ACCOUNTS, ANONYMOUS, ANONYMOUS_CLIENT, POLLS, anonymous_client, spend
from farebox.http.request import Request
from farebox.payments.processor import Checkout

BILLING = "/billing"


async def billing(visit: Visit) -> Shown:
    """The billing page."""
    return render.billing(await load_view(visit.services, visit.account_id))


async def quote(visit: Visit) -> Shown | Response:
    """What a purchase will cost; shown before it is confirmed."""
    try:
        limits = await top_up.limits(visit.services, visit.account_id)
        amount = cents(dict(visit.request.query_pairs()), "amount", "the amount", *limits)
        purchase = await top_up.quote(visit.services, visit.account_id, amount)
    except Problem as problem:
        return redirect_with_note(visit, BILLING, Flash("bad", f"{problem.words.rstrip('.')}."))
    view = await load_view(visit.services, visit.account_id)
    key = visit.services.ids.secret()
    return {"view": view, "purchase": purchase, "request_key": key, "another": render.ANOTHER}


async def one_top_up(visit: Visit) -> Shown | Response:
    """A purchase in progress; once it is done, the billing page says how it ended."""
    spend(visit.services, POLLS, visit.account_id)
    found = await top_up.status(visit.services, visit.account_id, _parameter(visit.request, "id"))
    if found.state == "paid":
        return redirect_with_note(visit, BILLING, Flash("good", bought_text(found.credit_cents)))
    if found.state in ("failed", "canceled", "declined"):
        why = f" {found.error.rstrip('.')}." if found.error else ""
        return redirect_with_note(
            visit, BILLING, Flash("bad", f"The payment did not go through.{why} Nothing was charged.")
        )
    return {"top_up": found, "refresh": str(render.REFRESH_SECONDS)}


_CHECKOUT_ID = re.compile(r"cs_[A-Za-z0-9_]{8,250}")


async def done(request: Request, _: None) -> Response:
    """The page that the browser returns to from the payment page. Without a session it shows nothing about the
    account.
    """
    checkout_id = _parameter(request, "checkout")
    if not _CHECKOUT_ID.fullmatch(checkout_id):
        raise Problem(NOT_FOUND, "This payment page does not exist")
    session = await session_of(request)
    await render.ready()
    try:
        if session is None:
            spend(request.services, ANONYMOUS_CLIENT, anonymous_client(request.client))
            spend(request.services, ANONYMOUS, ALL_ACCOUNTS)
        else:
            spend(request.services, POLLS, session.account_id)
        checkout = await processor_events.note_checkout(
            request.services, checkout_id, account_id=session.account_id if session else None
        )
        note = _landing(checkout)
    except Problem as problem:
        if session is not None:
            return redirect_with_note(Visit(request, session), BILLING, Flash("bad", f"{problem.words.rstrip('.')}."))
        if problem.kind is not RATE_LIMITED:
            raise
        note = Flash("warn", "The payment page cannot be checked at the moment; nothing is lost.")
    if session is not None:
        return redirect_with_note(Visit(request, session), BILLING, note)
    return html(render.done(note))


def _landing(checkout: Checkout) -> Flash:
    """The state of a payment page, without revealing its account."""
    if checkout.state == "complete" and checkout.mode == "setup":
        return Flash("good", "The card is saved.")
    if checkout.state == "complete" and checkout.paid:
        return Flash("good", "The payment went through, and the card is saved.")
    if checkout.state == "complete":
        return Flash("warn", "The payment is in progress: the credit arrives when it is complete.")
    if checkout.state == "expired":
        return Flash("bad", "The payment page has expired. Nothing was charged.")
    return Flash("warn", "The payment page has not been completed. Nothing has been charged.")


def _parameter(request: Request, name: str) -> str:
    return dict(request.query_pairs()).get(name, "")
