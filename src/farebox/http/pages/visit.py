"""What all pages share: the session, cookies, the flash message for the next page, headers."""

import base64
import json
from dataclasses import dataclass

from farebox.billing import owner_sessions
from farebox.billing.owner_sessions import SESSION_MS, Session
from farebox.errors import LINK_EXPIRED, Problem
from farebox.http.envelope import HTML, Response
from farebox.http.pages import render
from farebox.http.pages.view import Flash
from farebox.http.request import Request
from farebox.runtime.services import Services

SESSION_COOKIE = "farebox_session"
NOTE_COOKIE = "farebox_note"
_NOTE_SECONDS = 120
_NOTE_MAX = 600

_HEADERS = (
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cache-control", "no-store"),
)


@dataclass(frozen=True, slots=True)
class OwnerRequest:
    """A request by an owner who is signed in."""

    request: Request
    session: Session

    @property
    def services(self) -> Services:
        return self.request.services

    @property
    def account_id(self) -> str:
        return self.session.account_id

    @property
    def csrf(self) -> str:
        """The token in this session's forms, which other sites cannot know."""
        return owner_sessions.seal(self.services, self.session, "form")


async def session_of(request: Request) -> Session | None:
    return await owner_sessions.session(request.services, request.cookie(SESSION_COOKIE))


async def owner_request(request: Request) -> OwnerRequest:
    """The owner who is signed in. Raises Problem (LINK_EXPIRED)."""
    session = await session_of(request)
    if session is None:
        raise Problem(LINK_EXPIRED, "You are not signed in, or your session has ended")
    return OwnerRequest(request, session)


# --- responses --------------------------------------------------------------------------------------------------------


def html(body: bytes, *headers: tuple[str, str], status: int = 200) -> Response:
    """A page."""
    return Response(body, status, HTML, (*_HEADERS, *headers))


def see_other(path: str, *headers: tuple[str, str]) -> Response:
    """Redirect to another page of ours with GET, so that a reload repeats nothing."""
    return html(b"", ("location", path), *headers, status=303)


def leave(url: str) -> Response:
    """Forward to a page of the payment processor.

    Not by a redirect: the content security policy forbids forms to lead to other sites, and browsers apply it to
    redirects too.
    """
    return html(render.leave(url))


def problem_page(problem: Problem) -> Response:
    """The error page in place of a page that cannot be shown."""
    expired = problem.kind is LINK_EXPIRED
    title = "Please open a new link" if expired else "That did not work"
    retry = () if problem.retry_after is None else (("retry-after", str(problem.retry_after)),)
    page = render.problem(title, f"{problem.message.rstrip('.')}.", expired=expired)
    return html(page, *retry, status=problem.kind.status)


# --- cookies ----------------------------------------------------------------------------------------------------------


def session_cookie(request: Request, session: Session | None) -> tuple[str, str]:
    """The header that sets or deletes the session cookie."""
    if session is None:
        return _cookie(request, SESSION_COOKIE, "", 0)
    return _cookie(request, SESSION_COOKIE, session.secret, SESSION_MS // 1000)


def note_cookie(visit: OwnerRequest, note: Flash) -> tuple[str, str]:
    """The header that sets a flash message for the next page. It is signed, so that no one else can inject text."""
    text = json.dumps([note.tone, note.text[:_NOTE_MAX]])
    seal = owner_sessions.seal(visit.services, visit.session, text)
    packed = base64.urlsafe_b64encode(f"{seal}{text}".encode()).decode().rstrip("=")
    return _cookie(visit.request, NOTE_COOKIE, packed, _NOTE_SECONDS)


def no_note_cookie(visit: OwnerRequest) -> tuple[str, str]:
    return _cookie(visit.request, NOTE_COOKIE, "", 0)


_SEAL_CHARACTERS = 64


def note_of(visit: OwnerRequest) -> Flash | None:
    """The flash message of the last form; None if there is none, or its signature is invalid."""
    packed = visit.request.cookie(NOTE_COOKIE)
    if not packed:
        return None
    try:
        whole = base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)).decode()
    except ValueError:
        return None
    seal, text = whole[:_SEAL_CHARACTERS], whole[_SEAL_CHARACTERS:]
    if not owner_sessions.sealed(visit.services, visit.session, text, seal):
        return None
    return Flash(*json.loads(text))


def _cookie(request: Request, name: str, value: str, seconds: int) -> tuple[str, str]:
    secure = "; Secure" if request.encrypted or request.services.base_url.startswith("https://") else ""
    return "set-cookie", f"{name}={value}; Path=/billing; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"
