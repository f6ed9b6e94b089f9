"""Sessions that our own side ends: a stop, a database that is away, `kill -9`. The books are those of any call."""

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection

from farebox.ledger.commands import Command, Verdict
from farebox.money import NANOS_PER_USD
from farebox.operator import administer
from farebox.settings import secret_key
from farebox.storage.database import opened_for_command
from farebox.storage.sql import DatabaseUnavailable, rows
from farebox.vault import Vault
from tests import processes
from tests.calls.kit import OPERATOR_KEY, differences, set_provider, until
from tests.engines import TESTER, read_now
from tests.failures.kit import GRANTED, Installation, new_installation, served
from tests.long import times
from tests.processes import Process
from tests.support import Customer, Farebox, running_farebox
from tests.websockets import live
from tests.websockets.kit import SECONDS, Script, SocketProvider, await_close, opened, providing, receive, send
from tests.websockets.live import Live
from tests.websockets.realtime import MODEL, SECOND, Realtime, await_event, cost

PATH = f"openai/realtime?model={MODEL}"
VAD_OFF = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
TURN = cost(text_in=100, text_out=20, audio_out=40)
KILLS = times(1, 24)


class OpenAI(Realtime):
    """OpenAI's Realtime API, at the provider and as its client uses it."""

    slug, path, price = "openai", PATH, TURN

    @staticmethod
    def begin(connection: ClientConnection) -> None:
        assert receive(connection)["type"] == "session.created"

    @staticmethod
    def speak(connection: ClientConnection) -> None:
        """A piece of audio, ahead of which a turn is held for."""
        send(connection, type="input_audio_buffer.append", audio=SECOND)

    @staticmethod
    def turn(connection: ClientConnection) -> None:
        """A turn that is asked for. Raises ConnectionClosed."""
        send(connection, type="response.create", response={"max_output_tokens": 100})
        while receive(connection)["type"] != "response.done":
            pass


class Google(Live):
    """Google's Live API."""

    slug, path, price = "google-ai-studio", live.PATH, live.turn_cost()

    def __init__(self) -> None:
        super().__init__(grows=False)

    @staticmethod
    def begin(connection: ClientConnection) -> None:
        config = {"maxOutputTokens": 100}
        live.say(connection, setup={"model": f"models/{live.MODEL}", "generationConfig": config})
        live.hear(connection)

    @staticmethod
    def speak(connection: ClientConnection) -> None:
        live.speak(connection)

    @staticmethod
    def turn(connection: ClientConnection) -> None:
        live.ask(connection)
        live.await_turn(connection)


Api: TypeAlias = OpenAI | Google


@pytest.fixture
def provider() -> Iterator[SocketProvider]:
    with providing() as served_by:
        yield served_by


def test_a_stop_lets_a_turn_end_and_then_closes(
    provider: SocketProvider, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stopping = threading.Event()
    played = Realtime()

    def wait(_: ServerConnection) -> None:
        stopping.wait(SECONDS)

    played.before_done = wait
    provider.script = played
    with running_farebox(tmp_path_factory.mktemp("stop")) as farebox:
        set_provider(farebox, "openai", base_url=provider.url)
        customer = farebox.funded()
        with opened(customer, PATH) as connection:
            send(connection, type="session.update", session=VAD_OFF)
            send(connection, type="response.create", response={"max_output_tokens": 100})
            await_event(connection, "response.output_audio.delta")
            stop = threading.Thread(target=farebox.stop)
            stop.start()
            stopping.set()
            assert await_event(connection, "response.done")
            assert await_close(connection) == (1001, "the server stops")
            stop.join(SECONDS)
        settings = farebox.services.settings
        assert read_now(settings, lambda c: rows(c, "SELECT posted, held FROM balances")) == [
            (5 * NANOS_PER_USD - TURN, 0)
        ]


def test_a_session_without_messages_ends_and_only_what_was_sent_is_charged(
    provider: SocketProvider, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def script(connection: ServerConnection) -> None:
        speaks = connection.request is not None and "speak" in connection.request.path
        list(connection) if speaks else Realtime()(connection)

    provider.script = script
    with running_farebox(tmp_path_factory.mktemp("idle"), websocket_idle_ms=1_000) as farebox:
        set_provider(farebox, "openai", base_url=provider.url)
        set_provider(farebox, "deepgram", base_url=provider.url)
        customer, speaker = farebox.funded(), farebox.funded()
        with (
            opened(customer, PATH) as connection,
            opened(speaker, "deepgram/v1/speak?model=aura-2-thalia-en") as speech,
        ):
            send(connection, type="input_audio_buffer.append", audio=SECOND)
            send(speech, type="Speak", text="Good day")
            until(lambda: customer.balance.held > 0 < speaker.balance.held)
            assert await_close(connection) == await_close(speech) == (4408, "no message for too long")
        assert provider.await_end()[0] == provider.await_end()[0] == 1000
        until(lambda: customer.balance.held == speaker.balance.held == 0)
        assert customer.balance.posted == 5 * NANOS_PER_USD
        assert speaker.balance.posted == 5 * NANOS_PER_USD - 8 * 30_000


@pytest.mark.usefixtures("engine")
@pytest.mark.both_engines
@pytest.mark.parametrize("api", [OpenAI, Google])
def test_while_the_database_is_away_a_turn_ends_in_the_journal(
    customer: Customer, farebox: Farebox, provider: SocketProvider, monkeypatch: pytest.MonkeyPatch, api: type[Api]
) -> None:
    set_provider(farebox, api.slug, base_url=provider.url)
    ledger, away = farebox.services.ledger, [False]
    do = ledger.do

    async def may_fail(command: Command) -> Verdict:
        if away[0]:
            raise DatabaseUnavailable("away")
        return await do(command)

    monkeypatch.setattr(ledger, "do", may_fail)
    played = api()

    def lose(_: ServerConnection) -> None:
        away[0] = True

    played.before_done = lose
    provider.script = played
    with opened(customer, api.path) as connection:
        api.begin(connection)
        api.turn(connection)  # its charge is in the journal
        with contextlib.suppress(ConnectionClosed):
            api.turn(connection)
        assert await_close(connection)[0] == 4503
    posted = "SELECT posted FROM balances WHERE account_id = ?"
    found = read_now(farebox.services.settings, lambda c: rows(c, posted, (customer.account_id,)))
    assert found == [(5 * NANOS_PER_USD,)]
    away[0] = False
    until(lambda: customer.balance.posted == 5 * NANOS_PER_USD - api.price and customer.balance.held == 0)
    assert not differences(farebox)


@pytest.fixture
def installation(tmp_path: Path, provider: SocketProvider) -> Installation:
    made = new_installation(tmp_path, f"sqlite:///{tmp_path}/farebox.db", accounts=1)
    with opened_for_command(made.settings, writing=True) as connection:
        vault = Vault(secret_key(made.settings))
        for slug in (OpenAI.slug, Google.slug):
            administer.set_provider(
                connection, vault, by=TESTER, name=slug, at=0, base_url=provider.url, api_key=OPERATOR_KEY
            )
    return made


def killing(process: Process, at: int, played: Script) -> Script:
    """Plays, and kills the process after this many messages."""
    sent = [0]

    def script(connection: ServerConnection) -> None:
        send_on = connection.send

        def counted(message: Any) -> None:
            sent[0] += 1
            if sent[0] == at:
                process.kill()
            send_on(message)

        connection.send = counted  # type: ignore[method-assign, assignment]
        played(connection)

    return script


@pytest.mark.slow
@pytest.mark.parametrize("api", [OpenAI, Google])
def test_a_gateway_that_is_killed_at_any_message_charges_what_was_delivered_once(
    installation: Installation, provider: SocketProvider, api: type[Api]
) -> None:
    (account, token), delivered = installation.customers[0], 0
    url = f"ws://127.0.0.1:{installation.port}/v1/{account}/default/{api.path}"
    for number in range(KILLS):
        with served(installation) as process:
            played = api()
            provider.script = killing(process, number * 5 % 24 + 6, played)
            headers = {"authorization": f"Bearer {token}"}
            with connect(url, additional_headers=headers, proxy=None, legacy=True) as connection:
                try:
                    api.begin(connection)
                    played.hears_every = 3
                    while True:
                        api.speak(connection)
                        api.turn(connection)
                        delivered += 1
                except (ConnectionClosed, OSError):
                    pass
            process.wait(SECONDS)
    with served(installation):
        checked = processes.run(["check", "--json"], env=installation.environment)
        assert json.loads(checked.stdout)["differences"] == []
    settings = installation.settings
    ((posted, held),) = read_now(settings, lambda c: rows(c, "SELECT posted, held FROM balances"))
    charges = read_now(settings, lambda c: rows(c, "SELECT amount FROM transfers WHERE kind = 'charge'"))
    assert (posted, held) == (GRANTED - api.price * len(charges), 0)
    assert {amount for (amount,) in charges} <= {api.price}
    assert delivered <= len(charges) <= delivered + 2 * KILLS
