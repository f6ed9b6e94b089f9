"""E-mail, received by an SMTP server over a socket."""

import asyncio
import contextlib
import email
import email.policy
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path

import pytest

from farebox.messages import email_templates
from farebox.messages.email import Email, NotSent, Relay, compose, one_line, relay_of, send
from farebox.operator import messages
from farebox.runtime.services import Services
from farebox.settings import SettingsError, load
from farebox.storage.notices import KINDS
from tests.messages.kit import ANN, BOB, START, ManualClock, change, notify, open_services, sql
from tests.test_addresses import certificate


@dataclass
class Mailbox:
    """An SMTP server that accepts everything, unless scripted otherwise."""

    port: int = 0
    tls: ssl.SSLContext | None = None
    """The TLS context that it offers by STARTTLS."""
    responses: dict[str, str] = field(default_factory=dict)
    """Command → the response to give instead."""
    said: list[str] = field(default_factory=list)
    messages: list[EmailMessage] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(text: str) -> None:
            writer.write(text.encode() + b"\r\n")
            await writer.drain()

        encrypted = False
        try:
            await say("220 test ready")
            while line := (await reader.readline()).decode().strip():
                self.said.append(line)
                command = line.split(" ")[0].split(":")[0].upper()
                if command in self.responses:
                    await say(self.responses[command])
                elif command == "EHLO":
                    offers = ["test", "AUTH PLAIN", *(["STARTTLS"] if self.tls and not encrypted else [])]
                    await say(
                        "\r\n".join(
                            f"250{'-' if n else ' '}{o}"
                            for n, o in zip((1,) * (len(offers) - 1) + (0,), offers, strict=True)
                        )
                    )
                elif command == "STARTTLS":
                    await say("220 go on")
                    await writer.start_tls(self.tls or ssl.create_default_context())
                    encrypted = True
                elif command == "AUTH":
                    await say("235 welcome")
                elif command == "DATA":
                    await say("354 go on")
                    body = await reader.readuntil(b"\r\n.\r\n")
                    self.raw.append(body)
                    message = email.message_from_bytes(
                        body[:-3].replace(b"\r\n..", b"\r\n."), policy=email.policy.default
                    )
                    assert isinstance(message, EmailMessage)
                    self.messages.append(message)
                    await say("250 taken")
                elif command == "QUIT":
                    await say("221 bye")
                    break
                else:
                    await say("250 ok")
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def mailbox(
    *, starttls: ssl.SSLContext | None = None, smtps: ssl.SSLContext | None = None
) -> AsyncIterator[Mailbox]:
    box = Mailbox(tls=starttls)
    server = await asyncio.start_server(box.handle, "127.0.0.1", 0, ssl=smtps)
    box.port = server.sockets[0].getsockname()[1]
    try:
        yield box
    finally:
        server.close()
        await server.wait_closed()


LETTER = Email(
    sender="Farebox <billing@seller.example>",
    recipient="ann@acme.example",
    subject="Your balance is low",
    body="Grüße\n.\nend\n",
    identifier="msg_1",
    at=START,
)


def text_of(message: EmailMessage) -> str:
    part = message.get_body(("plain",))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


async def test_an_email_arrives_unchanged() -> None:
    async with mailbox() as box:
        await send(Relay("127.0.0.1", box.port, tls=False), LETTER)
        (got,) = box.messages
    assert got["from"] == "Farebox <billing@seller.example>"
    assert got["to"] == "ann@acme.example"
    assert got["subject"] == "Your balance is low"
    assert got["message-id"] == "<msg_1@seller.example>"
    assert got["date"] == "Wed, 18 Nov 2026 11:06:40 +0000"
    assert got["auto-submitted"] == "auto-generated"
    assert got.get_content_type() == "text/plain"
    assert text_of(got) == "Grüße\n.\nend\n"
    assert "mail FROM:<billing@seller.example>" in box.said
    assert all(byte < 128 for byte in box.raw[0])
    assert not any(line.startswith("AUTH") for line in box.said)


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
async def test_mail_is_encrypted_and_authenticated(tmp_path: Path, scheme: str) -> None:
    file = certificate(tmp_path, "localhost")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(file)
    trusting = ssl.create_default_context(cafile=str(file))
    async with mailbox(**{"starttls" if scheme == "smtp" else "smtps": serving}) as box:
        relay = relay_of(f"{scheme}://us%40er:p%3Ass@localhost:{box.port}")
        assert (relay.user, relay.password) == ("us@er", "p:ss")
        await send(relay, LETTER, tls=trusting)
        assert len(box.messages) == 1
        commands = [line.split(" ")[0].upper() for line in box.said]
        assert ("STARTTLS" in commands) == (scheme == "smtp")
        assert commands.index("AUTH") > (commands.index("STARTTLS") if scheme == "smtp" else -1)
        with pytest.raises(NotSent, match="SSL"):  # its certificate has no trusted authority
            await send(relay, LETTER)
        assert len(box.messages) == 1


async def test_a_password_never_leaves_this_machine_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farebox.messages.email._this_machine", lambda host: False)
    async with mailbox() as box:
        with pytest.raises(NotSent, match="STARTTLS"):
            await send(Relay("127.0.0.1", box.port, tls=False, user="u", password="p"), LETTER)
        assert not any(line.startswith(("AUTH", "MAIL")) for line in box.said)


@pytest.mark.parametrize(
    "recipient",
    [
        "ann@acme.example\nBcc: all@acme.example", "ann@acme.example\r\nSubject: x", "ann@acme.example, bob@x.example",
        "ann", "", "a b@acme.example", "ann@acme.example\x00", "<ann@acme.example> x", "änn@acme.example", "@", "a@",
        "ann@acme.example>\n<bob@x.example",
    ],
)  # fmt: skip
def test_an_address_is_single_and_cannot_inject_a_header(recipient: str) -> None:
    message = Email(sender="s@x.example", recipient=recipient, subject="s", body="b", identifier="i", at=START)
    with pytest.raises(NotSent) as refused:
        compose(message)
    assert refused.value.for_good


def test_a_subject_cannot_inject_a_header() -> None:
    evil = Email(
        sender="s@x.example",
        recipient="a@x.example",
        subject="Hi\r\nBcc: all@x.example\u2028\n\nbody" + "x" * 300,
        body="From: y\n\n.\nBcc: z\n",
        identifier="i",
        at=START,
    )
    made = compose(evil)
    assert "\n" not in made["subject"]
    assert made["bcc"] is None
    read = email.message_from_bytes(made.as_bytes(), policy=email.policy.default)
    assert sorted(read.keys()) == sorted(made.keys())
    assert len(one_line(evil.subject)) <= 150


@pytest.mark.parametrize(
    ("responses", "for_good"),
    [
        ({"RCPT": "550 no such user"}, True),
        ({"RCPT": "451 later"}, False),
        ({"MAIL": "421 too busy"}, False),
        ({"DATA": "554 no"}, False),
        ({"EHLO": "500 what", "HELO": "500 what"}, False),
    ],
)
async def test_a_refusal_by_the_relay(responses: dict[str, str], *, for_good: bool) -> None:
    async with mailbox() as box:
        box.responses = responses
        with pytest.raises(NotSent) as refused:
            await send(Relay("127.0.0.1", box.port, tls=False), LETTER)
    assert refused.value.for_good is for_good


async def test_an_unreachable_mail_relay_is_a_failure() -> None:
    async with mailbox() as box:
        port = box.port
    with pytest.raises(NotSent, match="could not be used"):
        await send(Relay("127.0.0.1", port, tls=False), LETTER)


def test_the_setting_is_checked() -> None:
    for url in ("http://x", "smtp://"):
        with pytest.raises(ValueError, match="FAREBOX_SMTP_URL"):
            relay_of(url)
    with pytest.raises(SettingsError, match="FAREBOX_SMTP_FROM"):
        load({}, smtp_url="smtp://relay.example")


# As a delivery ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def box() -> AsyncIterator[Mailbox]:
    async with mailbox() as made:
        yield made


@pytest.fixture
async def services(tmp_path: Path, box: Mailbox) -> AsyncIterator[Services]:
    settings = {
        "smtp_url": f"smtp://127.0.0.1:{box.port}",
        "smtp_from": "billing@seller.example",
        "seller_email": "ops@seller.example",
        "seller_name": "Seller\nLtd",
    }
    async with open_services(tmp_path, ManualClock(), **settings) as made:
        await change(
            made,
            "INSERT INTO billing_profiles (bucket, account_id, email, updated_at) "
            "SELECT bucket, account_id, 'ann@acme.example', 0 FROM accounts WHERE account_id = ?",
            (ANN,),
        )
        yield made


async def test_the_owner_gets_an_email(services: Services, box: Mailbox) -> None:
    await notify(services, "a", "low_balance", posted_nanos=1_990_000_000, low_below_nanos=2_000_000_000, note="x\ny")
    await notify(services, "b", "low_balance", BOB)  # has no address
    assert await messages.work(services) == 1
    (got,) = box.messages
    assert got["to"] == "ann@acme.example"
    assert got["subject"] == "Your balance is low (account ann)"
    text = text_of(got)
    assert "Account: ann" in text
    assert "Posted: 1.99 USD" in text
    assert "Low below: 2.00 USD" in text
    assert "Note: x y" in text
    assert text.endswith("-- \nSeller Ltd\n")
    assert await sql(services, "SELECT target, attempts FROM deliveries") == [("mailto:ann@acme.example", 1)]


async def test_the_operator_gets_the_relevant_notices(services: Services, box: Mailbox) -> None:
    await notify(services, "a", "dispute_opened", amount_cents=5_000)
    await notify(services, "b", "dispute_closed", BOB)
    assert await messages.work(services) == 3
    assert sorted(str(got["to"]) for got in box.messages) == [
        "ann@acme.example",
        "ops@seller.example",
        "ops@seller.example",
    ]
    assert any("Amount: 50.00 USD" in text_of(got) for got in box.messages)


async def test_an_email_is_retried(services: Services, box: Mailbox) -> None:
    clock = services.clock
    assert isinstance(clock, ManualClock)
    box.responses = {"MAIL": "421 too busy"}
    await notify(services, "a")
    assert await messages.work(services) == 1
    assert await sql(services, "SELECT attempts, next_at, last_error FROM deliveries") == [
        (1, START + 5_000, "the relay responded 421")
    ]
    box.responses = {}
    clock.now += 5_000
    assert await messages.work(services) == 1
    assert len(box.messages) == 1
    assert await sql(services, "SELECT attempts, next_at, last_error FROM deliveries") == [(2, None, None)]


async def test_an_invalid_address_is_abandoned(services: Services, box: Mailbox) -> None:
    await change(services, "UPDATE billing_profiles SET email = ?", ("ann@acme.example\nBcc: all@x.example",))
    await notify(services, "a")
    await messages.work(services)
    assert box.messages == []
    assert await sql(services, "SELECT attempts, next_at FROM deliveries") == [(1, None)]


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_has_an_email_template(services: Services, box: Mailbox, kind: str) -> None:
    await notify(services, "a", kind)
    await messages.work(services)
    got = next(item for item in box.messages if item["to"] == "ann@acme.example")
    assert got["subject"] == f"{email_templates.SUBJECTS[kind]} (account ann)"
    assert len(text_of(got)) > 50


def test_no_email_template_is_unused() -> None:
    assert set(email_templates.SUBJECTS) == set(KINDS)
    assert set(KINDS) >= email_templates.OPERATOR_KINDS
