"""Building the hosted pages: everything from outside is escaped; no script, one style sheet, light and dark."""

import base64
import hashlib
from html import escape
from urllib.parse import quote

from fake_stripe.errors import Json
from fake_stripe.exchange import HeaderList

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

_CSS = """
:root { color-scheme: light dark; --ink: #1a1f36; --soft: #4f566b; --line: #8792a2; --page: #f6f8fa; --card: #ffffff;
  --accent: #4b45c6; --on-accent: #ffffff; --bad: #a41c4e; --note: #fff4d6; }
@media (prefers-color-scheme: dark) { :root { --ink: #f2f4f8; --soft: #b5bdcc; --line: #7a8599; --page: #14161d;
  --card: #1e222c; --accent: #8f8aff; --on-accent: #14161d; --bad: #ff8fb4; --note: #3d3413; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 30rem; margin: 2rem auto; padding: 1.5rem; background: var(--card); border-radius: 0.75rem;
  border: 1px solid color-mix(in srgb, var(--line) 40%, transparent); }
.note { background: var(--note); padding: 0.6rem 1rem; text-align: center; font-weight: 600; margin: 0; }
h1 { font-size: 1.25rem; margin: 0 0 0.25rem; } h2 { font-size: 1rem; margin: 1.5rem 0 0.5rem; }
.sum { font-size: 2rem; font-weight: 700; margin: 0 0 1rem; }
label { display: block; font-weight: 600; margin: 0.75rem 0 0.25rem; }
input { width: 100%; padding: 0.6rem; font: inherit; color: inherit; background: var(--card);
  border: 1px solid var(--line); border-radius: 0.4rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
button { width: 100%; padding: 0.75rem; margin-top: 1rem; font: inherit; font-weight: 700; border: 0;
  border-radius: 0.4rem; background: var(--accent); color: var(--on-accent); cursor: pointer; }
button.plain { background: transparent; color: var(--ink); border: 1px solid var(--line); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.error { color: var(--bad); font-weight: 600; border: 1px solid; border-radius: 0.4rem; padding: 0.6rem; }
.soft { color: var(--soft); } a { color: var(--accent); } ul { padding-left: 1.25rem; }
table { width: 100%; border-collapse: collapse; } td, th { text-align: left; padding: 0.35rem 0; font-weight: normal; }
td:last-child { text-align: right; } tr.total { font-weight: 700; border-top: 1px solid var(--line); }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_CSS.encode()).digest()).decode()

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


def document(title: str, *parts: str) -> bytes:
    """A whole page."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} – test payment page</title><style>{_CSS}</style></head><body>"
        '<p class="note">Test payment page – no real money</p><main>' + "".join(parts) + "</main></body></html>"
    ).encode()


def money(amount: int, currency: str) -> str:
    sign = "-" if amount < 0 else ""
    return (
        f"{sign}${abs(amount) / 100:,.2f}"
        if currency == "usd"
        else f"{sign}{abs(amount) / 100:,.2f} {currency.upper()}"
    )


def heading(text: str, amount: str | None = None) -> str:
    return f"<h1>{escape(text)}</h1>" + (f'<p class="sum" id="amount">{escape(amount)}</p>' if amount else "")


def paragraph(text: str, css: str = "soft") -> str:
    return f'<p class="{css}">{escape(text)}</p>'


def problem(message: str | None) -> str:
    """An error message, which screen readers announce at once."""
    return f'<p class="error" role="alert" id="error">{escape(message)}</p>' if message else ""


def lines(rows: list[tuple[str, str]], total: str | None = None) -> str:
    cells = "".join(f"<tr><td>{escape(left)}</td><td>{escape(right)}</td></tr>" for left, right in rows)
    if total is not None:
        cells += f'<tr class="total"><td>Total</td><td>{escape(total)}</td></tr>'
    return f"<table><tbody>{cells}</tbody></table>"


def link(text: str, url: str, element_id: str) -> str:
    return f'<p><a id="{element_id}" href="{escape(url)}">{escape(text)}</a></p>'


def button(text: str, action: str, element_id: str, name: str, value: str, css: str = "") -> str:
    """A form with one button."""
    return (
        f'<form method="post" action="{escape(action)}"><button id="{escape(element_id)}" class="{css}" '
        f'name="{name}" value="{escape(value)}">{escape(text)}</button></form>'
    )


def card_form(action: str, submit: str, filled: Json, *, email: bool = False) -> str:
    """The fields of a card, and links that fill them in."""
    mail = _field("email", "Email", filled, "email", 'type="email" required') if email else ""
    return (
        f'<form method="post" action="{escape(action)}" id="card-form">{mail}'
        + _field("card-number", "Card number", filled, "cc-number", 'inputmode="numeric" required autofocus')
        + '<div class="pair"><div>'
        + _field(
            "card-expiry", "Expiry (MM / YY)", filled, "cc-exp", 'inputmode="numeric" placeholder="12 / 34" required'
        )
        + "</div><div>"
        + _field("card-cvc", "Security code (CVC)", filled, "cc-csc", 'inputmode="numeric" placeholder="123" required')
        + "</div></div>"
        + _field("card-name", "Name on card", filled, "cc-name", "")
        + f'<button id="submit" type="submit">{escape(submit)}</button></form>'
        + _test_cards(action)
    )


def _field(name: str, label: str, filled: Json, autocomplete: str, extra: str) -> str:
    value = escape(str(filled.get(name) or ""))
    return (
        f'<label for="{name}">{escape(label)}</label><input id="{name}" name="{name}" value="{value}" '
        f'autocomplete="{autocomplete}" {extra}>'
    )


def _test_cards(action: str) -> str:
    items = "".join(
        f'<li><a href="{escape(action)}?card={quote(number.replace(" ", ""))}" '
        f'id="card-{number.replace(" ", "")}">{number}</a> <span class="soft">{escape(does)}</span></li>'
        for number, does in TEST_CARDS
    )
    return f"<h2>Test cards</h2><p class='soft'>Choose one to fill in the form.</p><ul>{items}</ul>"


def bank_page(action: str, amount: str | None) -> bytes:
    """The page on which the cardholder authenticates."""
    what = f"a payment of {amount}" if amount else "saving your card"
    return document(
        "Authentication",
        heading("3-D Secure: is it you?"),
        paragraph(f"Your (test) bank asks you to confirm {what}."),
        button("Complete authentication", action, "authenticate", "result", "complete"),
        button("Fail authentication", action, "fail", "result", "fail", "plain"),
    )
