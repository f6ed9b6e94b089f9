"""The pages: what each URL shows."""

import re
from functools import partial
from importlib.resources import files

import structlog

from farebox.billing import owner_sessions, processor_events, top_up
from farebox.errors import NOT_FOUND, RATE_LIMITED, VALIDATION_FAILED, Problem
from farebox.http.envelope import Response
from farebox.http.pages import render
from farebox.http.pages.actions import back, bought_text, cents
from farebox.http.pages.queries import load_view
from farebox.http.pages.view import Flash
from farebox.http.pages.visit import (
    OwnerRequest,
    html,
    no_note_cookie,
    note_of,
    owner_request,
    see_other,
    session_cookie,
    session_of,
)
from farebox.http.quotas import ALL_ACCOUNTS, ANONYMOUS, ANONYMOUS_CLIENT, POLLS, anonymous_client, spend
from farebox.http.request import Request
from farebox.payments.processor import Checkout
from farebox.storage.accounts import find_account

log = structlog.get_logger("farebox.http")

_STYLE = files(__package__).joinpath("style.css").read_bytes()
_ICON = files(__package__).joinpath("icon.svg").read_bytes()
_STATIC = (("cache-control", "max-age=300"), ("x-content-type-options", "nosniff"))


async def style(request: Request, _: None) -> Response:
    return Response(_STYLE, 200, "text/css; charset=utf-8", _STATIC)


async def icon(request: Request, _: None) -> Response:
    return Response(_ICON, 200, "image/svg+xml", _STATIC)


async def link(request: Request, _: None) -> Response:
    """Show whose page a link opens, with a button that opens it: programs that scan links in messages press no
    buttons.

    For a used link, show how to get another.
    """
    secret = _parameter(request, "link")
    account_id = await owner_sessions.account_of_link(request.services, secret)
    account = await request.services.database.get(partial(find_account, account_id=account_id))
    name = account_id if account is None else account.name
    return html(render.link(name, secret))


async def open_link(request: Request, _: None) -> Response:
    """Redeem a link for a session. Forms of other sites are rejected: they could sign the owner in to someone else's
    account.
    """
    if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise Problem(VALIDATION_FAILED, "The form was not sent from this page: open the link itself")
    session = await owner_sessions.open_link(request.services, request.form().get("link", ""))
    log.info("billing page opened", account=session.account_id, client=request.client)
    return see_other("/billing", session_cookie(request, session))


async def billing(request: Request, _: None) -> Response:
    """The billing page."""
    visit = await owner_request(request)
    flash = note_of(visit)
    view = await load_view(visit.services, visit.account_id, visit.csrf)
    body = render.billing(view, flash)
    return html(body, no_note_cookie(visit)) if flash else html(body)


async def quote(request: Request, _: None) -> Response:
    """What a purchase will cost; shown before it is confirmed."""
    visit = await owner_request(request)
    try:
        limits = await top_up.limits(visit.services, visit.account_id)
        amount = cents(dict(request.query_pairs()), "amount", "the amount", *limits)
        purchase = await top_up.quote(visit.services, visit.account_id, amount)
    except Problem as problem:
        return back(visit, Flash("bad", f"{problem.message.rstrip('.')}."))
    view = await load_view(visit.services, visit.account_id, visit.csrf)
    return html(render.quote(view, purchase, visit.services.ids.secret()))


async def one_top_up(request: Request, _: None) -> Response:
    """A purchase in progress; once it is done, the billing page says how it ended."""
    visit = await owner_request(request)
    spend(visit.services, POLLS, visit.account_id)
    found = await top_up.status(visit.services, visit.account_id, _parameter(request, "id"))
    if found.state == "paid":
        return back(visit, Flash("good", bought_text(found.credit_cents)))
    if found.state in ("failed", "canceled", "declined"):
        why = f" {found.error.rstrip('.')}." if found.error else ""
        return back(visit, Flash("bad", f"The payment did not go through.{why} Nothing was charged."))
    return html(render.under_way(found))


_CHECKOUT_ID = re.compile(r"cs_[A-Za-z0-9_]{8,250}")


async def done(request: Request, _: None) -> Response:
    """The page that the browser returns to from the payment page. Without a session it shows nothing about the
    account.
    """
    checkout_id = _parameter(request, "checkout")
    if not _CHECKOUT_ID.fullmatch(checkout_id):
        raise Problem(NOT_FOUND, "There is no such payment page")
    session = await session_of(request)
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
            return back(OwnerRequest(request, session), Flash("bad", f"{problem.message.rstrip('.')}."))
        if problem.kind is not RATE_LIMITED:
            raise
        note = Flash("warn", "The payment page cannot be checked right now; nothing is lost.")
    if session is not None:
        return back(OwnerRequest(request, session), note)
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


async def signed_out(request: Request, _: None) -> Response:
    return html(render.signed_out())


def _parameter(request: Request, name: str) -> str:
    return dict(request.query_pairs()).get(name, "")
