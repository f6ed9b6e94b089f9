"""Renders the hosted pages: Jinja templates with autoescape; no script, one style sheet, light and dark."""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fake_stripe.exchange import HeaderList

_TEMPLATES = Path(__file__).parent / "templates"

TEST_CARDS = (
    ("4242 4242 4242 4242", "Succeeds"),
    ("5555 5555 5555 4444", "Succeeds (Mastercard)"),
    ("4000 0025 0000 3155", "Authenticate now, not later"),
    ("4000 0027 6000 3184", "Authenticate every time"),
    ("4000 0000 0000 0341", "Can be saved, declines later"),
    ("4000 0000 0000 0002", "Declined"),
    ("4000 0000 0000 9995", "Insufficient funds"),
    ("4000 0000 0000 0069", "Expired card"),
    ("4000 0000 0000 0127", "Wrong security code"),
    ("4000 0000 0000 0259", "Succeeds, then is disputed"),
    ("4000 0000 0000 5126", "Succeeds, a refund fails"),
)

_STYLE = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

HEADERS: HeaderList = [
    ("content-type", "text/html; charset=utf-8"),
    ("cache-control", "no-store"),
    (
        "content-security-policy",
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"style": _STYLE, "test_cards": TEST_CARDS}
    return environment


def page(template: str, title: str, **given: Any) -> bytes:
    """A whole page. Everything that a template prints is escaped."""
    return _environment().get_template(template).render(title=title, **given).encode()


def message(title: str, heading: str, text: str = "", *, link: tuple[str, str, str] | None = None) -> bytes:
    """A page that says one thing. `link`: its text, URL and ID."""
    return page("message.html", title, heading=heading, text=text, link=link)


def bank_page(action: str, amount: str | None) -> bytes:
    """The page on which the cardholder authenticates; `amount`: of the payment, None if a card is saved."""
    return page("authentication.html", "Authentication", action=action, amount=amount)


def money(amount: int, currency: str) -> str:
    sign = "-" if amount < 0 else ""
    return (
        f"{sign}${abs(amount) / 100:,.2f}"
        if currency == "usd"
        else f"{sign}{abs(amount) / 100:,.2f} {currency.upper()}"
    )
