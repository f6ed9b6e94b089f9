"""E-mail to people who use the pages: plain text, and the same as HTML.

Times are milliseconds since the Unix epoch.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from farebox.calendar import MINUTE_MS
from farebox.messages.email import Email, one_line

if TYPE_CHECKING:
    from jinja2 import Environment


class Post(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that all these messages have in common."""

    sender: str
    recipient: str
    seller: str
    """The name of the seller that signs it; may be empty."""
    place: str
    """The host that its link leads to."""
    identifier: str
    at: int


def sign_in_mail(post: Post, link: str, lasts_ms: int) -> Email:
    """An e-mail with a sign-in link."""
    given = {"heading": "Sign in to Farebox", "link": link, "minutes": lasts_ms // MINUTE_MS}
    return _mail(post, "sign_in", "Your link to sign in to Farebox", given)


def passkey_mail(post: Post, link: str, name: str) -> Email:
    """An e-mail about a passkey that was added; the link leads to the page where it can be removed."""
    return _mail(post, "passkey", "A passkey was added", {"heading": "A passkey was added", "link": link, "name": name})


def _mail(post: Post, template: str, subject: str, given: dict[str, Any]) -> Email:
    given |= {"subject": subject, "place": post.place, "recipient": post.recipient, "seller": one_line(post.seller)}
    text, html = (_environment().get_template(f"{template}.{kind}").render(given) for kind in ("txt", "html"))
    return Email(
        sender=post.sender,
        recipient=post.recipient,
        subject=subject,
        body=text,
        html=html,
        identifier=post.identifier,
        at=post.at,
    )


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape  # loaded with the first message

    return Environment(
        loader=PackageLoader(__package__),
        autoescape=select_autoescape(("html",), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
