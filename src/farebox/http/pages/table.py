"""Pages and forms: what a row of the table means, and how it is served.

A page consists of a function that gathers its content, a template that shows it, and a row that says who may see it. A
form consists of a function that carries it out, and a row that says who may send it. The rows are in `routes`; nobody
can see a page or send a form unless its row names one of their roles.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import quote

from msgspec.structs import replace

from farebox.errors import ACCOUNT_FROZEN, VALIDATION_FAILED, Problem
from farebox.http.envelope import Response
from farebox.http.pages import fault_texts, render
from farebox.http.pages.form_redisplay import redisplayed_form
from farebox.http.pages.view import Flash
from farebox.http.pages.visit import (
    Visit,
    html,
    no_note_cookie,
    not_signed_in,
    note_cookie,
    note_of,
    problem_page,
    see_other,
    to_sign_in,
    visit_of,
)
from farebox.http.quotas import Quota, spend
from farebox.http.refusals import Pages
from farebox.http.request import Request
from farebox.http.router import Access, Handler, Route, Shape, no_route
from farebox.http.validation import InvalidInput
from farebox.identity import sessions
from farebox.model import Role
from farebox.storage.sql import DatabaseUnavailable

FORM_BYTES = 65_536
FROZEN = Flash("bad", "The account is frozen, so nothing was done.")
"""The note of a form that was refused for this reason; while the account is frozen, its pages say so anyway."""

OWNER = frozenset((Role.OWNER,))
MONEY = frozenset((Role.OWNER, Role.BILLING))
BUILD = frozenset((Role.OWNER, Role.DEVELOPER))
MEMBERS = frozenset((Role.OWNER, Role.BILLING, Role.DEVELOPER, Role.VIEWER))
OPERATOR = frozenset((Role.OPERATOR,))
ANYBODY = MEMBERS | OPERATOR
"""Everyone who has a role."""
WITHOUT_ROLE = "/ui/invitations"
"""Where people without a role are redirected: someone who is only invited has not accepted yet."""

Shown: TypeAlias = Mapping[str, Any]
"""The values for a template."""
Query: TypeAlias = Callable[[Visit], Awaitable[Shown | Response]]
Fields: TypeAlias = Mapping[str, str]
Act: TypeAlias = Callable[[Visit, Fields], Awaitable[Response | str]]
"""Carries out a form; returns the note for the next page, or a response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page at a URL; `path` has its parameters in braces."""

    path: str
    title: str
    """In the browser's title bar; the query may return another `title`."""
    roles: frozenset[Role]
    query: Query
    template: str = ""
    """Empty: the query returns a response, such as a file."""
    label: str = ""
    """Its entry in the navigation; empty: it has none."""
    icon: str = ""
    """The icon of that entry: a name in templates/icons.html."""
    section: str = ""
    """Path of the page whose entry is marked instead of its own."""
    content_type: str = "text/html"
    demo: bool = False
    """Whether it exists only with the demo provider."""
    without_role: bool = False
    """Whether it is also for people who are signed in without a role on an account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A form that is sent to a URL."""

    path: str
    does: str
    """What it does, for docs/pages.md: `Buy credit`."""
    roles: frozenset[Role]
    act: Act
    back: str
    """The page that shows the outcome; parameters in braces are the form's own."""
    proved: bool = False
    """Whether it concerns money or keys and so needs a recent proof of identity (`identity.sessions.confirmed`)."""
    budget: Quota | None = None
    without_role: bool = False
    """As in Page."""


NAVIGATION: list[Page] = []
"""The pages that have an entry, in order; filled by `routes_of`."""
_PAGES: dict[str, Page] = {}
"""All pages by their paths, and"""
_FORMS: list[Form] = []
"""all forms; filled like the navigation."""


def page_handler(page: Page) -> Handler:
    """The handler of a page. People who are not signed in are redirected to the sign-in page. Links in refusals name
    their account: if another account is shown, a button switches to it."""

    async def handle(request: Request, _: None) -> Response:
        await render.ready()
        visit = await visit_of(request)
        if visit is None:
            query = f"?{request.query}" if request.query else ""
            return to_sign_in(_filled(page.path, request) + query)
        if page.demo and not request.services.configuration.demo:
            raise no_route(page.path)
        named = dict(request.query_pairs()).get("account", visit.account_id)
        if named != visit.account_id and page.label:
            here = f"{_filled(page.path, request)}?{request.query}"
            return shell(visit, "other_account.html", {"title": page.title, "account": named, "next": here}, page.path)
        if not visit.roles and not page.without_role:
            return see_other(WITHOUT_ROLE)
        if visit.roles or not page.without_role:
            visit.require(page.roles)
        shown = await page.query(visit)
        return (
            shown
            if isinstance(shown, Response)
            else shell(visit, page.template, _values(page, visit, shown), page.section or page.path)
        )

    return handle


def _values(page: Page, visit: Visit, shown: Shown) -> dict[str, Any]:
    """The values for the page's template. If one of its forms needs a recent proof of identity and there is none, the
    page says so before somebody fills it in."""
    proofs = any(form.proved and form.back == page.path and visit.may(form.roles) for form in _FORMS)
    confirm = quote(_with_place(_filled(page.path, visit.request), visit), safe="/")
    unproved = proofs and not sessions.confirmed(visit.services, visit.session)
    return {"title": page.title, "confirm": confirm if unproved else None} | dict(shown)


def shell(visit: Visit, template: str, shown: Shown, here: str) -> Response:
    """The complete page, with the navigation, whose entry `here` is marked, and the note that a form left for it.
    `shown` has its `title`, and may have a `heading`, a `refresh` and the `flash`, if that is not in the cookie."""
    noted_before, demo = note_of(visit), visit.services.configuration.demo
    entries = [each for each in NAVIGATION if visit.may(each.roles) and (demo or not each.demo)]
    operating = [each for each in entries if each.roles == OPERATOR]
    navigation = [("", [each for each in entries if each not in operating]), ("Installation", operating)]
    frame: dict[str, Any] = {"heading": None, "flash": noted_before, "refresh": None, "confirm": None, "refused": False}
    frame |= dict(shown)
    if visit.session.frozen and frame["flash"] == FROZEN:
        frame |= {"flash": None, "refused": True}
    frame |= {"visit": visit, "navigation": navigation, "here": here, "operates": visit.may(OPERATOR)}
    body = render.page(template, frame)
    return html(body, no_note_cookie(visit)) if noted_before else html(body)


def form_handler(form: Form) -> Handler:
    """The handler of a form: it checks the role, CSRF token and proof, acts, and redirects, so that a reload repeats
    nothing. If it was refused, its page is shown again with what was typed."""

    async def handle(request: Request, _: None) -> Response:
        await render.ready()
        visit = await visit_of(request)
        if visit is None:
            raise not_signed_in()
        if visit.roles or not form.without_role:
            visit.require(form.roles)
        fields = request.form()
        if not sessions.sealed(visit.services, visit.session, "form", fields.get("csrf", "")):
            raise stale()
        back = _with_place(_filled(form.back, request), visit)
        if form.proved and not sessions.confirmed(visit.services, visit.session):
            return see_other(f"/ui/confirm?next={quote(back, safe='/')}")
        try:
            if form.budget is not None:
                own = visit.session.sign_in.session_id if form.budget.each_session else visit.account_id
                spend(visit.services, form.budget, own)
            done = await form.act(visit, fields)
        except Problem as problem:
            note = _note(problem)
            return await _again(form, visit, fields, note) or redirect_with_note(visit, back, note)
        return done if isinstance(done, Response) else redirect_with_note(visit, back, Flash("good", done))

    return handle


def _note(problem: Problem) -> Flash:
    """What a refused form says on the next page."""
    if problem.kind is ACCOUNT_FROZEN:
        return FROZEN
    if isinstance(problem, InvalidInput):
        text = fault_texts.note_of(problem)
    else:
        text = fault_texts.with_our_quotes(problem.words)
    return Flash("bad", f"{text.rstrip('.')}.")


async def _again(form: Form, visit: Visit, fields: Fields, note: Flash) -> Response | None:
    """The page of a form that was refused, with the note and what was typed; None if it has no form with these values,
    as when it has only a button."""
    page = _PAGES.get(form.back)
    if page is None or not visit.may(page.roles):
        return None
    try:
        shown = await page.query(visit)
    except (Problem, DatabaseUnavailable):  # the refusal is what has to be said
        return None
    if isinstance(shown, Response):
        return None
    values = _values(page, visit, shown) | {"flash": note}
    response = shell(visit, page.template, values, page.section or page.path)
    body = redisplayed_form(response.body.decode(), _filled(form.path, visit.request), fields)
    return None if body is None else replace(response, body=body.encode())


def _filled(path: str, request: Request) -> str:
    """The path with the request's own parameters."""
    return path.format_map({name: quote(value, safe="") for name, value in request.path.items()})


def _with_place(path: str, visit: Visit) -> str:
    """The path of a page, with the part of its lists that the request is from."""
    return path if not visit.place else f"{path}{'&' if '?' in path else '?'}{visit.place[1:]}"


def redirect_with_note(visit: Visit, path: str, note: Flash) -> Response:
    """Redirect to a page, which shows the note."""
    return see_other(path, note_cookie(visit, note))


def stale() -> Problem:
    return Problem(VALIDATION_FAILED, "The form has expired or was not sent from this site: open the page again")


# --- routes -----------------------------------------------------------------------------------------------------------


def page_route(
    path: str,
    handler: Handler,
    summary: str,
    content_type: str = "text/html",
    on_problem: Callable[[Problem, Pages], Response] = problem_page,
) -> Route:
    """A route for browsers, whose errors are pages too; it is not part of the API's document."""
    return Route(
        method="GET",
        path=path,
        handler=handler,
        summary=summary,
        result=None,
        access=Access.PUBLIC,
        shape=Shape.RAW,
        content_type=content_type,
        on_problem=on_problem,
    )


def form_route(
    path: str, handler: Handler, summary: str, on_problem: Callable[[Problem, Pages], Response] = problem_page
) -> Route:
    return Route(
        method="POST",
        path=path,
        handler=handler,
        summary=summary,
        result=None,
        status=303,
        access=Access.PUBLIC,
        shape=Shape.RAW,
        content_type="text/html",
        raw_limit=FORM_BYTES,
        on_problem=on_problem,
    )


def routes_of(pages: tuple[Page, ...], forms: tuple[Form, ...]) -> tuple[Route, ...]:
    """The routes of the table."""
    NAVIGATION[:] = [page for page in pages if page.label]
    _PAGES.update({page.path: page for page in pages})
    _FORMS[:] = forms
    return (
        *[page_route(page.path, page_handler(page), f"Page: {page.title}", page.content_type) for page in pages],
        *[form_route(form.path, form_handler(form), f"Form: {form.does}") for form in forms],
    )
