"""Renders pages: the values for each template. Every text that a template prints is escaped (Jinja's autoescape)."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from farebox.billing.auto_top_up import AMOUNT_MIN, THRESHOLD_MAX, THRESHOLD_MIN
from farebox.http.pages import assets, columns, labels
from farebox.http.pages.view import Flash, View
from farebox.payments.guards import CAP_FACTOR
from farebox.storage.sessions import SignIn

if TYPE_CHECKING:
    from jinja2 import Environment

REFRESH_SECONDS = 3
"""How often a page refreshes while something is in progress."""
ANOTHER = "another"
"""The choice to enter a new card on the payment page, instead of using a saved one."""
HIGHEST_CENTS = 99_999_999
USUAL_CENTS = 5_000
USUAL_THRESHOLD_CENTS = 1_000
"""Default values of the forms."""

_PLANES = "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 0x10000))
_NOT_HTML = re.compile(f"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_PLANES}]")
"""Characters that HTML does not allow, not even escaped (WHATWG HTML, "Preprocessing the input stream"). Model names
and metadata may contain them."""
_ADDRESS_STARTS = ("/", "#", "https://", "http://")


async def ready() -> None:
    """Load the templates; the first time on a thread, because compiling them takes 80 ms, which would delay calls."""
    if not _environment.cache_info().currsize:
        await asyncio.to_thread(_environment)


def page(template: str, given: Mapping[str, Any]) -> bytes:
    """A page in the frame for people who are signed in; `shell.html` lists its other values."""
    return _bytes(_environment().get_template(template).render(given))


def billing(view: View) -> dict[str, Any]:
    """The values of the billing page."""
    return {
        "title": f"Billing of {view.account.name}",
        "heading": "Billing",
        "refresh": str(REFRESH_SECONDS) if view.under_way else None,
        "view": view,
        "rule": None if view.rule is None else labels.rule_state(view.rule, contested=view.contested),
        "bounds": _bounds(view),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class SignInMethods:
    """The ways to sign in, other than by a link, that are set up here."""

    email: bool = False
    passkey: bool = False
    single_sign_on: str = ""
    """The provider's name; empty: there is none."""


def sign_in(wanted: str, methods: SignInMethods) -> bytes:
    """The page with the ways to sign in; `wanted` is the path to go to afterwards."""
    return _page("sign_in.html", "Sign in", wanted=wanted, open=methods)


def sign_in_mail_sent(email: str, minutes: int) -> bytes:
    """The page after requesting a link by e-mail: the same for everyone."""
    return _page("sign_in_mail_sent.html", "Check your inbox", email=email, minutes=minutes)


def not_signed_in(text: str) -> bytes:
    """The page for a person who could not sign in."""
    return _page("not_signed_in.html", "You are not signed in", text=text)


def link(name: str, secret: str, found: SignIn, path: str, wanted: str) -> bytes:
    """The page that says what a link opens: `name` is the account's, `secret` the link's, `path` is where the form is
    sent, `wanted` the page to go to afterwards."""
    return _page("link.html", f"Open {name}", name=name, secret=secret, found=found, path=path, wanted=wanted)


def done(flash: Flash) -> bytes:
    """The page after the payment page, if no owner is signed in."""
    return _page("done.html", "Back from the payment page", flash=flash)


def signed_out(provider: str) -> bytes:
    """The page after signing out. `provider`: where the person is still signed in; empty: nowhere."""
    return _page("signed_out.html", "Signed out", provider=provider)


def leave(url: str, place: str) -> bytes:
    """A page that forwards to another site at once."""
    return _page("leave.html", f"To {place}", refresh=f"0;url={url}", url=url, place=place)


def problem(title: str, text: str, *, expired: bool) -> bytes:
    """The error page. `expired`: a new link is needed."""
    return _page("problem.html", title, text=text, expired=expired)


def address(url: str) -> str:
    """A URL that is safe in a link: one that is neither a path nor http(s), such as `javascript:…`, becomes `#`."""
    return url if url.startswith(_ADDRESS_STARTS) else "#"


def _page(template: str, title: str, *, refresh: str | None = None, **given: Any) -> bytes:
    """`refresh`: the content of a meta refresh, only for pages that show something in progress."""
    return _bytes(_environment().get_template(template).render(title=title, refresh=refresh, **given))


def _bytes(text: str) -> bytes:
    """The text as valid HTML: forbidden characters become the replacement character."""
    return _NOT_HTML.sub("\ufffd", text).encode()


def _bounds(view: View) -> dict[str, Any]:
    """The bounds of the forms' amounts, in US cents, and their defaults."""
    low, high = view.limits
    lowest_auto = max(AMOUNT_MIN, low)
    return {
        "usual": min(max(USUAL_CENTS, low), high),
        "auto": (lowest_auto, high),
        "usual_auto": max(USUAL_CENTS, lowest_auto),
        "threshold": (THRESHOLD_MIN, THRESHOLD_MAX),
        "usual_threshold": USUAL_THRESHOLD_CENTS,
        "highest": HIGHEST_CENTS,
        "cap_factor": CAP_FACTOR,
    }


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # loaded only when a page is opened
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        filter_.__name__: filter_
        for filter_ in (
            address,
            labels.usd,
            labels.plain_usd,
            labels.field_usd,
            labels.exact_usd,
            labels.shortened,
            labels.round_usd,
            labels.day,
            labels.second,
            labels.duration,
            labels.with_all,
            labels.call_state,
            labels.floor_usd,
            labels.browser,
            labels.moment,
            labels.iso,
            labels.of_iso,
            labels.per_million,
            labels.month_name,
            labels.card_name,
            labels.expired,
            labels.payer,
            labels.top_up_state,
            labels.signed,
            labels.meter,
            labels.change,
            labels.markup_percent,
            labels.changes,
            columns.aligned,
        )
    }
    environment.globals |= {
        "asset": assets.address_of,
        "marks": tuple(map(Markup, (columns.BEGIN, columns.CONTENT, columns.END))),
        "kinds": labels.KINDS,
        "refund_states": labels.REFUNDS,
        "dispute_states": labels.DISPUTES,
        "transfers": labels.TRANSFERS,
        "durations": labels.DURATIONS,
        "spans": labels.SPANS,
        "sign_in_methods": labels.SIGN_IN_METHODS,
        "strategies": labels.STRATEGIES,
    }
    for name in environment.list_templates():
        environment.get_template(name)
    return environment
