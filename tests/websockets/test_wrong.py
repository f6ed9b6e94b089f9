"""Errors in sessions of every kind: unexpected or invalid frames, expired keys and tokens, missing regions. The error
is clear, nothing is charged for it, and nothing stays held."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import pytest
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request, Response
from websockets.sync.client import ClientConnection
from websockets.sync.server import ServerConnection

from farebox.clock import SystemClock
from farebox.money import NANOS_PER_USD
from tests.calls.kit import OPERATOR_KEY, differences, forget, log_row, log_rows, set_provider
from tests.engines import ON_BOTH_ENGINES
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import SECONDS, until
from tests.websockets import live, realtime
from tests.websockets.conversations import Conversation, Stage, at_once
from tests.websockets.kinds import KINDS, prepare
from tests.websockets.kit import SocketProvider, await_close, opened, receive, send, settled
from tests.websockets.realtime import await_event
from tests.websockets.speech import Deepgram

pytestmark = ON_BOTH_ENGINES
OFF_MS: Final = 10 * 60_000
RIGHT: Final = SystemClock.now_ms
Wrong = Callable[[ServerConnection, ClientConnection], object]


@pytest.fixture(scope="module")
def farebox(engine: str, provider: SocketProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("wrong")) as running:
        services = running.services
        at = services.clock.now_ms() - 2 * OFF_MS  # when the prices begin
        running.run(services.database.write(lambda c: prepare(c, services.ids, services.vault, at, provider.url)))
        forget(running)
        yield running


def each_with(farebox: Farebox, provider: SocketProvider, wrong: Wrong) -> list[tuple[Customer, Conversation]]:
    """A conversation of each kind, in which `wrong` happens after the first message that is held for."""
    return had_by([farebox.funded() for _ in KINDS], provider, wrong)


def had_by(
    customers: Sequence[Customer], provider: SocketProvider, wrong: Wrong
) -> list[tuple[Customer, Conversation]]:
    """The same, each with one of these customers."""
    stage = Stage(provider)
    had = [
        (customer, Conversation(kind, kind.held_at, lambda one: wrong(one.server, one.client)))
        for customer, kind in zip(customers, KINDS, strict=True)
    ]
    with at_once([partial(stage.talk, one, customer.gateway_url, customer.token) for customer, one in had]):
        pass
    for customer, conversation in had:
        assert conversation.stopped
        calls = customer.farebox.services.calls.by_account
        until(lambda: customer.balance.held == 0 and not calls.get(customer.account_id))  # noqa: B023 - called here
    return had


# --- frames ---


def an_unknown_opcode(_: ServerConnection, client: ClientConnection) -> None:
    client.socket.sendall(b"\x83\x80\0\0\0\0")


def a_frame_without_its_mask(_: ServerConnection, client: ClientConnection) -> None:
    client.socket.sendall(b"\x81\x02{}")


def bytes_of_the_client(_: ServerConnection, client: ClientConnection) -> None:
    client.send(b"")


def an_unknown_opcode_of_the_provider(server: ServerConnection, _: ClientConnection) -> None:
    server.socket.sendall(b"\x83\x00")


def a_compressed_frame(server: ServerConnection, _: ClientConnection) -> None:
    """Compression was not agreed on."""
    server.socket.sendall(b"\xc1\x02{}")


def bytes_of_the_provider(server: ServerConnection, _: ClientConnection) -> None:
    server.send(b"\x07unexpected bytes")


TAKE_BYTES: Final = ("realtime", "realtime-heard", "responses", "listen")
"""Kinds of session whose clients may send bytes: events of OpenAI's, or audio."""


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (an_unknown_opcode, 1002),
        (a_frame_without_its_mask, 1002),
        (bytes_of_the_client, 4400),
        (an_unknown_opcode_of_the_provider, 1002),
        (a_compressed_frame, 1002),
        (bytes_of_the_provider, 1000),
    ],
)
def test_an_unexpected_frame(farebox: Farebox, provider: SocketProvider, wrong: Wrong, code: int) -> None:
    for customer, conversation in each_with(farebox, provider, wrong):
        taken = wrong is bytes_of_the_client and conversation.kind.name in TAKE_BYTES
        assert conversation.client.close_code == (1000 if taken else code), conversation.kind
        spent = 5 * NANOS_PER_USD - customer.balance.posted
        least = conversation.received if conversation.kind.by_unit else conversation.delivered
        assert least <= spent <= conversation.asked, conversation.kind
    assert not differences(farebox)


@pytest.mark.parametrize("kind", ["realtime", "responses"])
def test_events_in_binary_frames_are_read(customer: Customer, provider: SocketProvider, kind: str) -> None:
    played = next(one for one in KINDS if one.name == kind)

    def in_bytes(connection: ServerConnection) -> None:
        send_text = connection.send

        def send_bytes(message: Any) -> None:
            send_text(message.encode())

        connection.send = send_bytes  # type: ignore[assignment, method-assign]
        played.play()(connection)

    provider.forget()
    provider.script = in_bytes
    with opened(customer, played.path) as connection:
        played.talk(connection)
    settled(customer, sum(played.pays), 2)


# --- keys of the operator's ---


def test_a_handshake_that_refuses_the_operator_s_key(customer: Customer, provider: SocketProvider) -> None:
    def refuse(connection: ServerConnection, _: Request) -> Response:
        return connection.respond(401, f"The key {OPERATOR_KEY} has expired.")

    provider.forget()
    provider.refusal = refuse
    for kind in KINDS:
        with pytest.raises(InvalidStatus) as refused:
            opened(customer, kind.path)
        response = refused.value.response
        assert response.status_code == 503, kind
        assert b"Nothing was charged" in bytes(response.body)
        assert OPERATOR_KEY.encode() not in bytes(response.body)
    settled(customer, 0, 0)


def test_a_session_that_is_closed_because_of_the_operator_s_key(farebox: Farebox, provider: SocketProvider) -> None:
    """Like Google: the handshake is accepted, and the close reason states the error."""

    def close(server: ServerConnection, _: ClientConnection) -> None:
        server.close(1008, "API key expired. Please renew the API key.")

    for customer, conversation in each_with(farebox, provider, close):
        assert conversation.client.close_code == 4503, conversation.kind
        assert "does not accept calls from this service" in (conversation.client.close_reason or "")
        settled(customer, 0)
        assert error_of_session(customer) == "provider_unavailable (key_refused, by a close)"


def error_of_session(customer: Customer) -> str:
    (log_id,) = (row["id"] for row in log_rows(customer) if not row["model"])
    return str(log_row(customer, log_id)["farebox"]["error"])


def test_an_error_in_a_binary_frame_that_is_about_the_operator_s_key(
    customer: Customer, provider: SocketProvider
) -> None:
    """Google sends all its JSON in binary frames. The delivered part of a response is charged."""
    trouble = {"code": 400, "message": "API key expired. Please renew the API key.", "status": "INVALID_ARGUMENT"}
    provider.forget()
    provider.script = live.Live(before_done=lambda connection: live.tell(connection, error=trouble))
    with opened(customer, live.PATH) as connection:
        live.say(connection, setup={"model": f"models/{live.MODEL}"})
        live.hear(connection)
        live.ask(connection)
        received = [live.hear(connection) for _ in range(2)]
        assert await_close(connection)[0] == 4503
    assert "renew" not in json.dumps(received)
    until(lambda: customer.balance.held == 0 and customer.balance.posted < 5 * NANOS_PER_USD)
    until(lambda: len(log_rows(customer)) == 2)
    assert error_of_session(customer) == "provider_unavailable (key_refused, by an event)"
    assert not differences(customer.farebox)


def test_a_reason_does_not_quote_the_operator_s_key(customer: Customer, provider: SocketProvider) -> None:
    provider.forget()
    provider.script = lambda connection: connection.close(1011, f"no route for {OPERATOR_KEY}")
    with opened(customer, live.PATH) as connection:
        assert await_close(connection) == (1011, "no route for [removed]")


QUOTA: Final[dict[str, Any]] = {
    "type": "insufficient_quota",
    "code": "insufficient_quota",
    "message": "You exceeded your current quota, please check your plan and billing details.",
}


@pytest.mark.parametrize("done", [False, True])
def test_an_event_about_the_operator_s_account(customer: Customer, provider: SocketProvider, *, done: bool) -> None:
    def script(connection: ServerConnection) -> None:
        send(connection, type="session.created", session={"turn_detection": None})
        event = receive(connection)
        if done:
            failed = {"id": "r", "status": "failed", "status_details": {"type": "failed", "error": QUOTA}}
            send(connection, type="response.created", response={"id": "r", "status": "in_progress"})
            send(connection, type="response.done", response=failed)
        else:
            send(connection, type="error", error={**QUOTA, "event_id": event["event_id"]})
        list(connection)

    provider.forget()
    provider.script = script
    with opened(customer, f"openai/realtime?model={realtime.MODEL}") as connection:
        receive(connection)
        send(connection, type="response.create", response={"max_output_tokens": 100})
        error = await_event(connection, "error")
        assert error["error"]["code"] == "provider_unavailable"
        assert "plan and billing" not in json.dumps(error)
        assert "had not been charged yet are free" in error["error"]["message"]
        assert await_close(connection)[0] == 4503
    settled(customer, 0)


# --- tokens of the caller's ---


def test_an_access_token_that_expires_during_the_session(
    farebox: Farebox, provider: SocketProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was under way is charged, and no more is sent."""
    accounts = [farebox.funded().account_id for _ in KINDS]
    expires = farebox.services.clock.now_ms() + OFF_MS // 2
    customers = [Customer(farebox, account, farebox.create_token(account, expires_at=expires)) for account in accounts]
    all_there = threading.Barrier(len(KINDS), partial(set_clock, monkeypatch, OFF_MS), SECONDS)
    for customer, conversation in had_by(customers, provider, lambda *_: all_there.wait()):
        assert conversation.client.close_code == 4401, conversation.kind
        spent = 5 * NANOS_PER_USD - customer.balance.posted
        assert conversation.delivered <= spent <= conversation.received, conversation.kind
    assert not differences(farebox)


# --- clocks ---


def set_clock(monkeypatch: pytest.MonkeyPatch, off_ms: int) -> None:
    """Shift all clocks on this machine."""
    monkeypatch.setattr(SystemClock, "now_ms", lambda self: RIGHT(self) + off_ms)


@pytest.mark.parametrize("off_ms", [OFF_MS, -OFF_MS])
def test_a_clock_that_is_set_during_a_session(
    farebox: Farebox, provider: SocketProvider, monkeypatch: pytest.MonkeyPatch, off_ms: int
) -> None:
    for customer, conversation in each_with(farebox, provider, lambda *_: set_clock(monkeypatch, off_ms)):
        assert conversation.client.close_code == 1000, conversation.kind
        settled(customer, sum(conversation.kind.pays))


# --- places that do not exist ---


@pytest.mark.parametrize(
    ("slug", "path", "key"),
    [
        (
            "azure-openai",
            "azure-openai/nowhere/openai/v1/realtime?model=voice",
            {"deployments": {"voice": realtime.MODEL}},
        ),
        ("deepgram", Deepgram.path, None),
    ],
)
def test_a_host_that_does_not_exist(
    farebox: Farebox, provider: SocketProvider, slug: str, path: str, key: dict[str, Any] | None
) -> None:
    customer = farebox.funded()
    secret = OPERATOR_KEY if key is None else json.dumps({"resource": "nowhere", "api_key": OPERATOR_KEY, **key})
    host = "https://{resource}.invalid" if key is not None else "https://nowhere.invalid"
    set_provider(farebox, slug, base_url=host, api_key=secret)
    try:
        with pytest.raises(InvalidStatus) as refused:
            opened(customer, path)
        assert refused.value.response.status_code == 502
        assert b"could not be reached (dns)" in bytes(refused.value.response.body)
        settled(customer, 0, 0)
    finally:
        set_provider(farebox, slug, base_url=provider.url, api_key=secret)
