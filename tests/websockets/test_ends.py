"""Sessions that Farebox ends: at a stop, or after silence. The books are like those of any call."""

import threading
from collections.abc import Iterator

import pytest
from websockets.sync.server import ServerConnection

from farebox.money import NANOS_PER_USD
from farebox.storage.sql import rows
from tests.calls.kit import set_provider
from tests.engines import read_now
from tests.support import running_farebox
from tests.waiting import until
from tests.websockets.kit import SECONDS, SocketProvider, await_close, opened, providing, send
from tests.websockets.realtime import MODEL, SECOND, Realtime, await_event, cost

PATH = f"openai/realtime?model={MODEL}"
VAD_OFF = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
TURN = cost(text_in=100, text_out=20, audio_out=40)


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
            assert await_close(connection) == await_close(speech) == (4408, "no message for too long")
        assert provider.await_end()[0] == provider.await_end()[0] == 1000
        until(lambda: customer.balance.held == speaker.balance.held == 0)
        held = read_now(farebox.services.settings, lambda c: rows(c, "SELECT DISTINCT account_id FROM holds"))
        assert len(held) == 2, "both were held for"
        assert customer.balance.posted == 5 * NANOS_PER_USD
        assert speaker.balance.posted == 5 * NANOS_PER_USD - 8 * 30_000
