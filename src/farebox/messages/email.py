"""E-mail by SMTP: one recipient, on a thread. `smtp://` uses STARTTLS, `smtps://` TLS from the start.

Times are milliseconds since the Unix epoch.
"""

import asyncio
import re
import smtplib
import ssl
import unicodedata
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

_ADDRESS = re.compile(r"[!#-'*+\-/-9=?A-Z^-~.]{1,64}@[A-Za-z0-9.-]{1,255}")
SOCKET_SECONDS = 10.0
WHOLE_SECONDS = 45.0


class NotSent(Exception):
    """The message was not accepted. `for_good`: a retry would fail too."""

    def __init__(self, message: str, *, for_good: bool = False) -> None:
        super().__init__(message)
        self.for_good = for_good


@dataclass(frozen=True, slots=True)
class Relay:
    """The SMTP server that accepts our e-mail."""

    host: str
    port: int
    tls: bool
    """TLS from the start; else STARTTLS."""
    user: str = ""
    password: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Email:
    """One e-mail."""

    sender: str
    recipient: str
    subject: str
    body: str
    """Plain text."""
    html: str = ""
    """The same as HTML; empty: there is none."""
    identifier: str
    """The same for each attempt, so that a mail client can recognize a repeat."""
    at: int


def relay_of(url: str) -> Relay:
    """The relay that `FAREBOX_SMTP_URL` names. Raises ValueError if the URL is invalid."""
    parts = urlsplit(url)
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
        raise ValueError("FAREBOX_SMTP_URL must be smtp://USER:PASSWORD@HOST:PORT or smtps://…")
    tls = parts.scheme == "smtps"
    port = parts.port or (465 if tls else 587)
    return Relay(parts.hostname, port, tls, unquote(parts.username or ""), unquote(parts.password or ""))


async def send(relay: Relay, email: Email, *, tls: ssl.SSLContext | None = None) -> None:
    """Send the e-mail to the relay. Raises NotSent; after a time-out it may have been sent all the same."""
    try:
        async with asyncio.timeout(WHOLE_SECONDS):
            await asyncio.to_thread(_send, relay, compose(email), tls)
    except TimeoutError as error:
        raise NotSent(f"the relay took longer than {WHOLE_SECONDS:.0f} seconds") from error


def compose(email: Email) -> EmailMessage:
    """The e-mail with its headers. Raises NotSent for an invalid address; no text in it can inject a header."""
    message = EmailMessage()
    sender = _sender(email.sender)
    message["From"] = sender
    message["To"] = _address(email.recipient)
    message["Subject"] = one_line(email.subject)
    message["Date"] = format_datetime(datetime.fromtimestamp(email.at // 1000, UTC))
    message["Message-ID"] = f"<{email.identifier}@{sender.domain}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(email.body, cte="quoted-printable")  # not every relay accepts 8-bit content
    if email.html:
        message.add_alternative(email.html, subtype="html", cte="quoted-printable")
    return message


def one_line(text: str, limit: int = 150) -> str:
    """Untrusted text made safe for a header: no control characters, not too long."""
    return "".join(" " if unicodedata.category(mark)[0] in "CZ" else mark for mark in text)[:limit].strip()


def _sender(text: str) -> Address:
    """`a@example.com` or `Name <a@example.com>`."""
    name, bracket, rest = text.rpartition("<")
    if not bracket:
        return _address(text)
    address = _address(rest.strip().removesuffix(">"))
    return Address(display_name=one_line(name.strip(' "')), username=address.username, domain=address.domain)


def _address(text: str) -> Address:
    if not _ADDRESS.fullmatch(text):
        raise NotSent("this is not an e-mail address", for_good=True)
    try:
        return Address(addr_spec=text)
    except (ValueError, IndexError) as error:
        raise NotSent("this is not an e-mail address", for_good=True) from error


def _send(relay: Relay, message: EmailMessage, tls: ssl.SSLContext | None) -> None:
    """Send the message; runs on a thread."""
    context = tls or ssl.create_default_context()
    try:
        with _connected(relay, context) as client:
            if relay.user:
                client.login(relay.user, relay.password)
            client.send_message(message)
    except smtplib.SMTPRecipientsRefused as error:
        ((code, _),) = error.recipients.values()
        raise NotSent(f"the relay rejected the recipient ({code})", for_good=500 <= code < 600) from error
    except smtplib.SMTPResponseException as error:
        raise NotSent(f"the relay responded {error.smtp_code}") from error
    except (smtplib.SMTPException, OSError) as error:
        raise NotSent(f"the relay could not be used: {type(error).__name__}") from error


def _connected(relay: Relay, context: ssl.SSLContext) -> smtplib.SMTP:
    """A connection to the relay, encrypted unless the relay is on this machine and does not offer encryption."""
    if relay.tls:
        return smtplib.SMTP_SSL(relay.host, relay.port, timeout=SOCKET_SECONDS, context=context)
    with ExitStack() as unless_usable:
        client = smtplib.SMTP(relay.host, relay.port, timeout=SOCKET_SECONDS)
        unless_usable.callback(client.close)
        client.ehlo_or_helo_if_needed()
        if client.has_extn("starttls"):
            client.starttls(context=context)
            client.ehlo()
        elif not _this_machine(relay.host):
            raise NotSent("the relay does not offer STARTTLS: use smtps://, or a relay on this machine")
        unless_usable.pop_all()
        return client


def _this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
