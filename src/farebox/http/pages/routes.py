"""The URLs of the billing page. Pages and forms are for browsers, and their errors are pages too."""

from functools import wraps
from typing import Any

from farebox.http.envelope import Response
from farebox.http.pages import actions, render, site
from farebox.http.pages.visit import problem_page
from farebox.http.request import Request
from farebox.http.router import Access, Handler, Route, Shape

_FORM_BYTES = 16_384


def _when_ready(handler: Handler) -> Handler:
    @wraps(handler)
    async def handle(request: Request, body: Any) -> Response:
        await render.ready()
        return await handler(request, body)

    return handle


def _page(path: str, handler: Handler, summary: str, content_type: str = "text/html") -> Route:
    return Route(
        method="GET",
        path=path,
        handler=_when_ready(handler),
        summary=summary,
        result=str,
        access=Access.PUBLIC,
        shape=Shape.RAW,
        content_type=content_type,
        on_problem=problem_page,
    )


def _form(path: str, handler: Handler, summary: str) -> Route:
    return Route(
        method="POST",
        path=path,
        handler=_when_ready(handler),
        summary=summary,
        result=str,
        status=303,
        access=Access.PUBLIC,
        shape=Shape.RAW,
        content_type="text/html",
        raw_limit=_FORM_BYTES,
        on_problem=problem_page,
    )


PAGES: tuple[Route, ...] = (
    _page("/billing", site.billing, "The owner's billing page"),
    _page("/billing/open", site.link, "Which account's billing page a link opens"),
    _page("/billing/buy", site.quote, "Quote for a purchase of credit"),
    _page("/billing/top-up", site.one_top_up, "A purchase in progress"),
    _page("/billing/done", site.done, "Return from the processor's page"),
    _page("/billing/signed-out", site.signed_out, "After signing out"),
    _page("/billing/style.css", site.style, "Style sheet of the billing page", "text/css"),
    _page("/billing/icon.svg", site.icon, "Icon of the billing page", "image/svg+xml"),
    _form("/billing/open", site.open_link, "Use a link to the billing page, once"),
    _form("/billing/buy", actions.buy, "Buy credit"),
    _form("/billing/cards", actions.save_card, "Redirect to the processor's page for saving a card"),
    _form("/billing/cards/default", actions.make_default, "Make a card the default"),
    _form("/billing/cards/remove", actions.remove_card, "Remove a card"),
    _form("/billing/details", actions.save_details, "Change the invoice details"),
    _form("/billing/auto", actions.set_auto, "Switch auto top-up on, or change it"),
    _form("/billing/auto/off", actions.end_auto, "Switch auto top-up off"),
    _form("/billing/limit", actions.set_limit, "Set the spending limit"),
    _form("/billing/limit/off", actions.end_limit, "Remove the spending limit"),
    _form("/billing/sign-out", actions.sign_out, "Sign out"),
)
