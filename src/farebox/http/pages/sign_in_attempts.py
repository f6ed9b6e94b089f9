"""What all ways to sign in share: rejecting forms of other sites, the browser's secret, and finally the session."""

from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
import structlog

from farebox.errors import VALIDATION_FAILED, Problem
from farebox.http.envelope import Response
from farebox.http.pages import render
from farebox.http.pages.view import Flash
from farebox.http.pages.visit import (
    ATTEMPT_COOKIE,
    SESSION_COOKIE,
    Visit,
    attempt_cookie,
    cookie_name,
    html,
    note_cookie,
    see_other,
    session_cookie,
)
from farebox.http.quotas import SIGN_INS, anonymous_client, spend
from farebox.http.refusals import Pages
from farebox.http.request import Request
from farebox.identity import membership, sessions, sign_in_attempts
from farebox.identity.sessions import Browser, SignInSession

T = TypeVar("T", bound=msgspec.Struct)
log = structlog.get_logger("farebox.http")


def require_own_form(request: Request) -> None:
    """Reject forms of other sites, which could sign a person in to someone else's account. A person who is not signed
    in has no CSRF token yet, but browsers state where a form is from: over plain HTTP only as its origin, which is
    `null` for pages that are not named to other sites, such as ours. Raises Problem (VALIDATION_FAILED)."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin") or "null"
    own = (request.headers.get("host"), urlsplit(request.services.base_url).netloc)
    if site in ("cross-site", "same-site") or (
        site is None and origin != "null" and origin.partition("://")[2] not in own
    ):
        raise Problem(VALIDATION_FAILED, "The form was not sent from this page: open the page itself")


def browser_of(request: Request) -> Browser:
    return Browser(
        client=request.client,
        agent=request.headers.get("user-agent") or "",
        before=request.cookie(cookie_name(request, SESSION_COOKIE)),
    )


async def signed_in(request: Request, session: SignInSession, landing: str) -> Response:
    """Redirect to the page that the person came for, with the session's cookie. To a person with several accounts, it
    names the one that is shown, because anyone may have added them to one."""
    sign_in, roles, email = session.sign_in, sorted(session.roles), sessions.verified_email(session)
    log.info(
        "signed in",
        account=sign_in.account_id,
        way=sign_in.method,
        roles=roles,
        email=sign_in.email,
        client=request.client,
    )
    headers = [session_cookie(request, session)]
    if email is not None and session.roles:
        notes = []
        if len(await membership.accounts_of(request.services, email)) > 1:
            notes.append(f"You are viewing the account {session.account_name}. Sign-ins lists your other accounts.")
        if await membership.invitations(request.services, email):
            notes.append("You are invited to an account: see Sign-ins.")
        if notes:
            headers.append(note_cookie(Visit(request, session), Flash("good", " ".join(notes))))
    return see_other(landing, *headers)


async def begin_attempt(request: Request, content: msgspec.Struct) -> tuple[str, str]:
    """The header with the cookie of an attempt to sign in. Raises Problem (RATE_LIMITED) for a client address that
    begins too many."""
    spend(request.services, SIGN_INS, anonymous_client(request.client))
    return attempt_cookie(request, await sign_in_attempts.begin(request.services, content))


async def take_attempt(request: Request, kind: type[T]) -> T | None:
    """The attempt that this browser has begun."""
    return await sign_in_attempts.take(request.services, request.cookie(cookie_name(request, ATTEMPT_COOKIE)), kind)


def failed(problem: Problem, _: Pages) -> Response:
    """The page for a person who could not sign in, with a link to try again."""
    retry = () if problem.retry_after is None else (("retry-after", str(problem.retry_after)),)
    page = render.not_signed_in(f"{problem.message.rstrip('.')}.")
    return html(page, *retry, status=problem.kind.status)
