"""Signing in and out, proofs of identity, and the list of sessions."""

from functools import partial

from farebox.calendar import MINUTE_MS
from farebox.errors import SIGN_IN_FAILED, VALIDATION_FAILED, Problem
from farebox.http.envelope import Response
from farebox.http.pages import render
from farebox.http.pages.render import SignInMethods
from farebox.http.pages.sign_in_attempts import browser_of, require_own_form, signed_in
from farebox.http.pages.table import OWNER, Fields, Shown
from farebox.http.pages.visit import HOME, Visit, html, own_path, see_other, session_cookie, session_of
from farebox.http.quotas import MAIL_REQUESTS, MAILS, anonymous_client, spend
from farebox.http.request import Request
from farebox.http.router import no_route
from farebox.identity import mail_links, mailing, membership, passkeys, sessions
from farebox.runtime.services import Services
from farebox.storage.accounts import find_account
from farebox.storage.passkeys import Passkey


async def root(request: Request, _: None) -> Response:
    """`/` and `/ui` redirect browsers to the overview. Clients that do not ask for HTML get a 404."""
    if "text/html" not in (request.headers.get("accept") or ""):
        raise no_route("/")
    return see_other(HOME)


async def sign_in(request: Request, _: None) -> Response:
    """The ways to sign in; a person who is already signed in is redirected."""
    await render.ready()
    wanted = own_path(parameter(request, "next"))
    if await session_of(request) is not None:
        return see_other(wanted)
    services = request.services
    methods = SignInMethods(
        email=mailing.available(services),
        passkey=passkeys.relying_party(services.base_url) is not None,
        single_sign_on=_provider_name(services),
    )
    return html(render.sign_in(wanted, methods))


# --- links ------------------------------------------------------------------------------------------------------------


async def link(request: Request, _: None) -> Response:
    """Show what a link opens, with a button that opens it: programs that scan links in messages do not press buttons.

    For a used link, show how to get another.
    """
    return await _link(request, sessions.OPEN_PATH, HOME)


async def billing_link(request: Request, _: None) -> Response:
    """As `link`, for the billing page."""
    return await _link(request, sessions.BILLING_PATH, "/billing")


async def _link(request: Request, path: str, landing: str) -> Response:
    await render.ready()
    secret = parameter(request, "link")
    found = await sessions.of_link(request.services, secret)
    account = await request.services.database.get(partial(find_account, account_id=found.account_id))
    wanted = own_path(parameter(request, "next") or landing)
    return html(render.link("" if account is None else account.name, secret, found, path, wanted))


async def open_link(request: Request, _: None) -> Response:
    """Redeem a link for a session."""
    return await _open(request, HOME)


async def open_billing_link(request: Request, _: None) -> Response:
    """As `open_link`, for the billing page."""
    return await _open(request, "/billing")


async def _open(request: Request, landing: str) -> Response:
    await render.ready()
    require_own_form(request)
    form = request.form()
    session = await sessions.open_link(request.services, form.get("link", ""), browser_of(request))
    return await signed_in(request, session, own_path(form.get("next") or landing))


async def ask_for_link(request: Request, _: None) -> Response:
    """Have a link sent to an e-mail address. The response is the same whether or not it is a member's."""
    await render.ready()
    require_own_form(request)
    if not mailing.available(request.services):
        raise Problem(SIGN_IN_FAILED, "This server sends no e-mail: its operator sets FAREBOX_SMTP_URL")
    form = request.form()
    email = membership.email_of(form.get("email", ""))
    spend(request.services, MAIL_REQUESTS, anonymous_client(request.client))
    spend(request.services, MAILS, email)
    mail_links.ask(request.services, email, own_path(form.get("next", "")))
    return html(render.sign_in_mail_sent(email, mail_links.MAIL_LINK_MS // MINUTE_MS))


# --- signing out ------------------------------------------------------------------------------------------------------


async def signed_out(request: Request, _: None) -> Response:
    await render.ready()
    return html(render.signed_out(_provider_name(request.services) if parameter(request, "at") else ""))


async def sign_out(visit: Visit, form: Fields) -> Response:
    """End the session. A person who signed in at a provider is asked whether to sign out there too."""
    await sessions.end(visit.services, visit.session)
    there = "?at=provider" if visit.session.sign_in.method == "oidc" else ""
    return see_other(f"/ui/signed-out{there}", session_cookie(visit.request, None))


def _provider_name(services: Services) -> str:
    return "" if services.identity_provider is None else services.identity_provider.name


# --- proofs -----------------------------------------------------------------------------------------------------------


async def confirm(visit: Visit) -> Shown | Response:
    """The ways to confirm one's identity before actions that concern money or keys."""
    wanted = own_path(parameter(visit.request, "next"))
    if sessions.confirmed(visit.services, visit.session):
        return see_other(wanted)
    mail_to = visit.session.sign_in.email if mailing.available(visit.services) else None
    person = sessions.verified_email(visit.session)
    return {
        "next": wanted,
        "mail_to": mail_to,
        "passkeys": await _passkeys(visit),
        "single_sign_on": _provider_name(visit.services) if person else "",
    }


async def confirm_by_mail(visit: Visit, form: Fields) -> str:
    """Confirm one's identity by a new link, sent to the session's e-mail address."""
    email = visit.session.sign_in.email
    if email is None or not mailing.available(visit.services):
        raise Problem(
            VALIDATION_FAILED,
            "No link can be sent: this session has no e-mail address, or the server does not send e-mail",
        )
    spend(visit.services, MAILS, email)
    mail_links.ask(visit.services, email, own_path(form.get("next", "")), visit.account_id)
    return f"We are sending a link to {email}: open it in this browser."


async def confirm_by_token(visit: Visit, form: Fields) -> Response:
    """Confirm one's identity by an access token."""
    session = await sessions.confirm_by_token(visit.services, visit.session, form.get("token", "").strip())
    if session is None:
        raise Problem(
            VALIDATION_FAILED,
            "This is not an active token of the account with the permissions Write and Billing Write for all gateways",
        )
    return see_other(own_path(form.get("next", "")), session_cookie(visit.request, session))


# --- sessions ---------------------------------------------------------------------------------------------------------


async def session_list(visit: Visit) -> Shown:
    """The person's sessions (owners see all sessions of the account), and their other accounts."""
    own = visit.session.sign_in
    found = await sessions.list_open(visit.services, visit.account_id)
    if not visit.may(OWNER):
        found = [each for each in found if each.email == own.email and (own.email or each == own)]
    email = sessions.verified_email(visit.session)
    accounts = {} if email is None else await membership.accounts_of(visit.services, email)
    return {
        "own": own,
        "sessions": found,
        "invitations": 0 if email is None else len(await membership.invitations(visit.services, email)),
        "accounts": {each: name for each, name in accounts.items() if each != visit.account_id},
        "person": email,
        "passkeys": await _passkeys(visit),
        "passkeys_work": passkeys.relying_party(visit.services.base_url) is not None,
        "name_max": passkeys.NAME_MAX,
        "now": visit.services.clock.now_ms(),
    }


async def _passkeys(visit: Visit) -> list[Passkey]:
    email = sessions.verified_email(visit.session)
    return [] if email is None else await passkeys.of_person(visit.services, email)


async def end_session(visit: Visit, form: Fields) -> str:
    """End a session from the list."""
    named = form.get("session", "")
    listed = await session_list(visit)
    if named not in [each.session_id for each in listed["sessions"]]:
        raise Problem(VALIDATION_FAILED, "This session has already ended")
    await sessions.end_named(visit.services, visit.account_id, named)
    return "The session has ended."


async def end_others(visit: Visit, form: Fields) -> str:
    """End all of the person's other sessions, on all accounts."""
    await sessions.end_others(visit.services, visit.session)
    return "All your other sessions have ended, and links that were sent to you no longer work."


async def switch_account(visit: Visit, form: Fields) -> Response:
    """Switch to another account, for a member of several."""
    await sessions.switch_account(visit.services, visit.session, form.get("account", ""))
    return see_other(own_path(form.get("next", "")))


def parameter(request: Request, name: str) -> str:
    """A parameter of the query; empty if it is missing."""
    return dict(request.query_pairs()).get(name, "")
