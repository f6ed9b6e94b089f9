"""What all pages share: who is signed in, cookies, the flash message for the next page, headers."""

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from farebox.errors import (
    ACCESS_DENIED,
    DATABASE_UNAVAILABLE,
    LINK_EXPIRED,
    METHOD_NOT_ALLOWED,
    NO_ROUTE,
    NODE_UNAVAILABLE,
    NOT_FOUND,
    Problem,
)
from farebox.http.envelope import HTML, Response
from farebox.http.exchange import RequestHeaders
from farebox.http.pages import render
from farebox.http.pages.fault_texts import with_our_quotes
from farebox.http.pages.view import Flash
from farebox.http.refusals import Pages
from farebox.http.request import Request
from farebox.identity import sessions
from farebox.identity.sessions import SESSION_MS, SignInSession
from farebox.identity.sign_in_attempts import ATTEMPT_MS
from farebox.ingress import path_of
from farebox.model import Operator, Role
from farebox.runtime.services import Services

HOME = "/ui/overview"
SESSION_COOKIE = "farebox_sid"
NOTE_COOKIE = "farebox_note"
ATTEMPT_COOKIE = "farebox_attempt"
REFRESH = "farebox-refresh"
"""A request header that assets/live.js sends."""
_PLACE = frozenset({"page", "policies", "domain_page", "markup_page", "find", "of"})
"""The names in an address that choose a part of a list, by its number or by what it has."""
_NOTE_SECONDS = 120
_NOTE_MAX = 600
_PAGE_DIGITS = 6
_CHECK_FIRST = (
    "If you have just sent a form, it may have been carried out: before you send it again, open its page and check."
)

_HEADERS = (
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cache-control", "no-store, no-transform"),  # compressed, a page would reveal its secrets by its length
)


@dataclass(frozen=True, slots=True)
class Visit:
    """A request by a person who is signed in."""

    request: Request
    session: SignInSession

    @property
    def services(self) -> Services:
        return self.request.services

    @property
    def account_id(self) -> str:
        """The account whose pages are shown; empty if there is none."""
        return self.session.account_id

    @property
    def roles(self) -> frozenset[Role]:
        return self.session.roles

    @property
    def operator(self) -> Operator:
        """The person who is signed in, as named in the audit log."""
        sign_in = self.session.sign_in
        return Operator(sign_in.email or f"session {sign_in.session_id}", "page")

    @property
    def csrf(self) -> str:
        """The token in this session's forms, which other sites cannot know. It is valid for the account it was made
        for: a form on another account's page, left open in another tab, does nothing."""
        return sessions.seal(self.services, self.session, "form")

    @property
    def now(self) -> int:
        """Milliseconds since the epoch."""
        return self.services.clock.now_ms()

    def page(self, name: str = "page") -> int:
        """The part of a long list that the address asks for; the first one is 1."""
        asked = dict(self.request.query_pairs()).get(name, "")
        return max(1, int(asked)) if asked.isdecimal() and len(asked) <= _PAGE_DIGITS else 1

    @property
    def place(self) -> str:
        """Which part of its lists the page shows, as the query of an address: `?page=2`; empty for the first one. Forms
        are sent with it, so that the page that follows shows the same part."""
        asked = self._asked_parts()
        return f"?{urlencode(asked)}" if asked else ""

    def place_without(self, name: str) -> str:
        """The same without the part of one list, as the beginning of a query: `policies=2&`. The links to the other
        parts of that list begin with it, so that a second list on the page stays where it is."""
        others = {each: text for each, text in self._asked_parts().items() if each != name}
        return f"{urlencode(others)}&" if others else ""

    def _asked_parts(self) -> dict[str, str]:
        return {name: text for name, text in self.request.query_pairs() if name in _PLACE and text}

    def part_of(self, name: str, items: Sequence[Any], size: int, *, prefix: str = "") -> dict[str, Any]:
        """The part of a long list that the address asks for, for a template: the items under `name`, `page`, and
        whether there are `more`; an address beyond the last part gets the last. A second list on a page has a
        `prefix` for the names of its page, in the address too."""
        page = min(self.page(f"{prefix}page"), last_page(len(items), size))
        some = items[(page - 1) * size : page * size]
        return {name: some, f"{prefix}page": page, f"{prefix}more": len(items) > page * size}

    def may(self, roles: Iterable[Role]) -> bool:
        return not self.roles.isdisjoint(roles)

    def require(self, roles: Iterable[Role]) -> None:
        """Raises Problem (ACCESS_DENIED) unless the person has one of these roles."""
        if not self.may(roles):
            have = " and ".join(sorted(self.roles))
            yours = f"your role is {have}" if have else "you have no role on the account"
            raise Problem(ACCESS_DENIED, f"You are not allowed to do this: {yours}")


def last_page(count: int, size: int) -> int:
    """The number of the last part of a list with `count` items, `size` in each part."""
    return max(1, -(-count // size))


async def session_of(request: Request) -> SignInSession | None:
    """The session of the request. Requests that an open page makes by itself do not keep it open."""
    headers, secret = request.headers, request.cookie(cookie_name(request, SESSION_COOKIE))
    by_itself = headers.get("accept") == "text/event-stream" or headers.get(REFRESH) is not None
    return await sessions.session(request.services, secret, touches=not by_itself)


async def visit_of(request: Request) -> Visit | None:
    """The visit of the person who is signed in; None if nobody is."""
    session = await session_of(request)
    return None if session is None else Visit(request, session)


def not_signed_in() -> Problem:
    return Problem(LINK_EXPIRED, "You are not signed in, or your session has ended")


def headers_of_pages() -> tuple[tuple[str, str], ...]:
    """Headers of every response to a browser."""
    return _HEADERS


# --- responses --------------------------------------------------------------------------------------------------------


def html(body: bytes, *headers: tuple[str, str], status: int = 200) -> Response:
    """A page."""
    return Response(body, status, HTML, (*_HEADERS, *headers))


def see_other(path: str, *headers: tuple[str, str]) -> Response:
    """Redirect to another page of ours with GET, so that a reload repeats nothing."""
    return html(b"", ("location", path), *headers, status=303)


def to_sign_in(path: str) -> Response:
    """Redirect to the sign-in page, and from there back to this page."""
    return see_other(f"/ui/sign-in?next={quote(path, safe='')}")


def own_path(text: str) -> str:
    """`text`, where a form says to go next, if it is the path of one of our pages; otherwise the home page."""
    known = text.startswith(("/ui/", "/billing"))
    plain = text.isascii() and text.isprintable() and not set(text) & set("\\ \"'<>") and "//" not in text
    return text if known and plain else HOME


def leave(url: str, place: str = "the payment page", *headers: tuple[str, str]) -> Response:
    """Forward to a page of another site, which is named `place`.

    Not by a redirect: the content security policy forbids forms to lead to other sites, and browsers apply it to
    redirects too.
    """
    return html(render.leave(url, place), *headers)


def download(body: bytes, content_type: str, name: str) -> Response:
    """A file for the browser to save."""
    disposition = ("content-disposition", f'attachment; filename="{name}"')
    return Response(body, 200, content_type, (*_HEADERS, disposition))


def problem_page(problem: Problem, _: Pages) -> Response:
    """The error page instead of a page that cannot be shown."""
    expired = problem.kind is LINK_EXPIRED
    text = f"{with_our_quotes(problem.words).rstrip('.')}."
    title = "Please open a new link" if expired else _title(problem)
    if problem.kind in (DATABASE_UNAVAILABLE, NODE_UNAVAILABLE):
        # It may be the page after a form that has been carried out.
        title, text = "The database is unavailable", f"{text} {_CHECK_FIRST}"
    retry = () if problem.retry_after is None else (("retry-after", str(problem.retry_after)),)
    page = render.problem(title, text, expired=expired)
    return html(page, *retry, status=problem.kind.status)


def _title(problem: Problem) -> str:
    return "Not found" if problem.kind.status == NOT_FOUND.status else "That did not work"


def is_browser(request: RequestHeaders, path: str) -> bool:
    """Whether a person in a browser sees the response to a request that is not for a page: browsers ask for HTML."""
    return "text/html" in (request.get("accept") or "") and not path.startswith("/client/")


async def error_page(problem: Problem, *headers: tuple[str, str]) -> Response:
    """The error page for a browser at an address that is not a page's, such as a mistyped one."""
    await render.ready()
    if problem.kind in (NO_ROUTE, METHOD_NOT_ALLOWED):
        title, text = "Page not found", "There is no page at this address. Check the spelling."
    else:
        title, text = _title(problem), f"{with_our_quotes(problem.words).rstrip('.')}."
    return html(render.problem(title, text, expired=False), *headers, status=problem.kind.status)


# --- cookies ----------------------------------------------------------------------------------------------------------


def cookie_name(request: Request, name: str) -> str:
    """The cookie's name in the browser. Over TLS its prefix makes the browser refuse it from other hosts and from plain
    HTTP; below a path, the stronger of the two prefixes is not allowed."""
    if not _secure(request):
        return name
    return f"__Secure-{name}" if path_of(request.services.settings.public_url) else f"__Host-{name}"


def session_cookie(request: Request, session: SignInSession | None) -> tuple[str, str]:
    """The header that sets or deletes the session cookie."""
    if session is None:
        return _cookie(request, SESSION_COOKIE, "", 0)
    left = session.sign_in.expires_at - request.services.clock.now_ms()
    return _cookie(request, SESSION_COOKIE, session.secret, max(1, min(left, SESSION_MS) // 1000))


def attempt_cookie(request: Request, secret: str) -> tuple[str, str]:
    """The header that makes the browser keep the secret of a sign-in attempt."""
    return _cookie(request, ATTEMPT_COOKIE, secret, ATTEMPT_MS // 1000)


def note_cookie(visit: Visit, note: Flash) -> tuple[str, str]:
    """The header that sets a flash message for the next page. It is signed, so that nobody else can inject text."""
    text = json.dumps([note.tone, note.text[:_NOTE_MAX]])
    seal = sessions.seal(visit.services, visit.session, text)
    packed = base64.urlsafe_b64encode(f"{seal}{text}".encode()).decode().rstrip("=")
    return _cookie(visit.request, NOTE_COOKIE, packed, _NOTE_SECONDS)


def no_note_cookie(visit: Visit) -> tuple[str, str]:
    return _cookie(visit.request, NOTE_COOKIE, "", 0)


_SEAL_CHARACTERS = 64


def note_of(visit: Visit) -> Flash | None:
    """The flash message of the last form; None if there is none, or its signature is invalid."""
    packed = visit.request.cookie(cookie_name(visit.request, NOTE_COOKIE))
    if not packed:
        return None
    try:
        whole = base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)).decode()
    except ValueError:
        return None
    seal, text = whole[:_SEAL_CHARACTERS], whole[_SEAL_CHARACTERS:]
    if not sessions.sealed(visit.services, visit.session, text, seal):
        return None
    return Flash(*json.loads(text))


def _secure(request: Request) -> bool:
    return request.encrypted or request.services.base_url.startswith("https://")


def _cookie(request: Request, name: str, value: str, seconds: int) -> tuple[str, str]:
    secure = "; Secure" if _secure(request) else ""
    named = cookie_name(request, name)
    return "set-cookie", f"{named}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"
