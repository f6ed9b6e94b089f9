"""How one signs in and out, proves who is there, and sees one's sessions."""

from functools import partial

import structlog

from farebox.errors import VALIDATION_FAILED, Problem
from farebox.http.envelope import Response
from farebox.http.pages import render
from farebox.http.pages.table import OWNER, Fields, Shown
from farebox.http.pages.visit import (
    HOME,
    SESSION_COOKIE,
    Visit,
    cookie_name,
    html,
    own_path,
    see_other,
    session_cookie,
    session_of,
)
from farebox.http.request import Request
from farebox.http.router import no_route
from farebox.people import membership, sessions
from farebox.storage.accounts import find_account

log = structlog.get_logger("farebox.http")


async def root(request: Request, _: None) -> Response:
    """`/` leads people to the pages. Programs are told, as ever, that there is nothing."""
    if "text/html" not in (request.headers.get("accept") or ""):
        raise no_route("/")
    return see_other(HOME)


async def sign_in(request: Request, _: None) -> Response:
    """The ways to sign in; who is signed in already goes on."""
    await render.ready()
    wanted = own_path(_parameter(request, "next"))
    session = await session_of(request)
    return see_other(wanted) if session is not None else html(render.sign_in(wanted))


async def link(request: Request, _: None) -> Response:
    """Show what a link opens, with a button that opens it: programs that scan links in messages press no buttons.

    For a used link, show how to get another.
    """
    return await _link(request, sessions.OPEN_PATH)


async def billing_link(request: Request, _: None) -> Response:
    """As `link`, for the billing page."""
    return await _link(request, sessions.BILLING_PATH)


async def _link(request: Request, path: str) -> Response:
    await render.ready()
    secret = _parameter(request, "link")
    found = await sessions.of_link(request.services, secret)
    account = await request.services.database.get(partial(find_account, account_id=found.account_id))
    return html(render.link("" if account is None else account.name, secret, found, path))


async def open_link(request: Request, _: None) -> Response:
    """Redeem a link for a session. Forms of other sites are rejected: they could sign somebody in to someone else's
    account.
    """
    return await _open(request, HOME)


async def open_billing_link(request: Request, _: None) -> Response:
    """As `open_link`, for the billing page."""
    return await _open(request, "/billing")


async def _open(request: Request, landing: str) -> Response:
    await render.ready()
    if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise Problem(VALIDATION_FAILED, "The form was not sent from this page: open the link itself")
    session = await sessions.open_link(
        request.services,
        request.form().get("link", ""),
        client=request.client,
        agent=request.headers.get("user-agent") or "",
        before=request.cookie(cookie_name(request, SESSION_COOKIE)),
    )
    roles = sorted(session.roles)
    log.info("signed in", account=session.account_id, roles=roles, email=session.sign_in.email, client=request.client)
    return see_other(landing, session_cookie(request, session))


async def signed_out(request: Request, _: None) -> Response:
    await render.ready()
    return html(render.signed_out())


async def sign_out(visit: Visit, form: Fields) -> Response:
    await sessions.end(visit.services, visit.session)
    return see_other("/ui/signed-out", session_cookie(visit.request, None))


# --- proofs -----------------------------------------------------------------------------------------------------------


async def confirm(visit: Visit) -> Shown | Response:
    """The ways to prove who is there before money or keys are touched."""
    wanted = own_path(_parameter(visit.request, "next"))
    if sessions.confirmed(visit.services, visit.session):
        return see_other(wanted)
    return {"next": wanted}


async def confirm_by_token(visit: Visit, form: Fields) -> Response:
    """Prove it by an access token."""
    session = await sessions.confirm_by_token(visit.services, visit.session, form.get("token", "").strip())
    if session is None:
        raise Problem(VALIDATION_FAILED, "This is no active token of the account that may write and change billing")
    return see_other(own_path(form.get("next", "")), session_cookie(visit.request, session))


# --- sessions ---------------------------------------------------------------------------------------------------------


async def session_list(visit: Visit) -> Shown:
    """Where one is signed in; owners see the whole account's sessions. And one's other accounts."""
    own = visit.session.sign_in
    found = await sessions.list_open(visit.services, visit.account_id)
    if not visit.may(OWNER):
        found = [each for each in found if each.email == own.email and (own.email or each == own)]
    accounts = [] if own.email is None else await membership.accounts_of(visit.services, own.email)
    return {
        "own": own,
        "sessions": found,
        "accounts": [account_id for account_id in accounts if account_id != visit.account_id],
        "now": visit.services.clock.now_ms(),
    }


async def end_session(visit: Visit, form: Fields) -> str:
    """End a session that is in the list."""
    named = form.get("session", "")
    listed = await session_list(visit)
    if named not in [each.session_id for each in listed["sessions"]]:
        raise Problem(VALIDATION_FAILED, "This session has already ended")
    await sessions.end_named(visit.services, visit.account_id, named)
    return "The session has ended."


async def turn_to(visit: Visit, form: Fields) -> Response:
    """Show another account of somebody who is a member of several."""
    await sessions.turn_to(visit.services, visit.session, form.get("account", ""))
    return see_other(own_path(form.get("next", "")))


def _parameter(request: Request, name: str) -> str:
    return dict(request.query_pairs()).get(name, "")
