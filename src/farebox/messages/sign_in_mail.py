"""The e-mail with a link that signs somebody in: plain text, and the same as HTML."""

from functools import cache
from typing import TYPE_CHECKING

from farebox.calendar import MINUTE_MS
from farebox.messages.email import Email, one_line

if TYPE_CHECKING:
    from jinja2 import Environment

SUBJECT = "Your link to sign in to Farebox"


def sign_in_mail(
    *, sender: str, recipient: str, seller: str, link: str, place: str, lasts_ms: int, identifier: str, at: int
) -> Email:
    """`place`: the host that the link leads to; `seller`: who signs the message, if anybody does."""
    given = {"link": link, "place": place, "minutes": lasts_ms // MINUTE_MS, "seller": one_line(seller)}
    text, html = (_environment().get_template(f"sign_in.{kind}").render(given) for kind in ("txt", "html"))
    return Email(
        sender=sender, recipient=recipient, subject=SUBJECT, body=text, html=html, identifier=identifier, at=at
    )


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape  # loaded by the first message

    return Environment(
        loader=PackageLoader(__package__),
        autoescape=select_autoescape(("html",), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
