"""Speech from text as it comes, on the operator's key: Deepgram's, ElevenLabs' and Cartesia's WebSockets, driven by
their SDKs and charged by the character."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.server import ServerConnection

from farebox.money import NANOS_PER_USD
from tests.calls.kit import OPERATOR_KEY, log_rows, set_provider
from tests.engines import ON_BOTH_ENGINES
from tests.sdks import cartesia, deepgram, elevenlabs
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import until
from tests.websockets import kit
from tests.websockets.kit import SocketProvider, await_close, opened
from tests.websockets.speech import (
    CODED,
    FORMS,
    HEARD,
    LENGTH,
    LISTEN,
    SECOND,
    SOUND,
    TEXT,
    Cartesia,
    Deepgram,
    ElevenLabs,
    Listener,
    Speaker,
    set_prices,
)

pytestmark = ON_BOTH_ENGINES


@pytest.fixture(scope="module")
def farebox(engine: str, provider: SocketProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("speech")) as served:
        for form in FORMS:
            set_provider(served, form.slug, base_url=provider.url)
        set_prices(served)
        yield served


def settled(customer: Customer, charged: int, granted: int = 5 * NANOS_PER_USD) -> None:
    """Check that nothing is held, and that this much was charged, in the log too."""
    kit.settled(customer, charged, granted=granted)
    assert sum(round((row["cost"] or 0) * NANOS_PER_USD) for row in log_rows(customer)) == charged


# --- by their SDKs ---


def by_deepgram(customer: Customer) -> bytes:
    url = f"{customer.gateway_url}/deepgram"
    environment = deepgram.DeepgramClientEnvironment(
        base=url, production=url.replace("http", "ws", 1), agent=url, agent_rest=url
    )
    with (
        httpx.Client() as http,
        deepgram.DeepgramClient(api_key=customer.token, environment=environment, httpx_client=http).speak.v1.connect(
            model="aura-2-thalia-en", encoding="linear16", sample_rate=24_000
        ) as connection,
    ):
        connection.send_text(deepgram.speak.v1.types.SpeakV1Text(type="Speak", text=TEXT))
        connection.send_flush()
        sound = connection.recv()
        assert connection.recv().type == "Flushed"
        return bytes(sound)


def by_elevenlabs(customer: Customer) -> bytes:
    base_url = f"{customer.gateway_url}/elevenlabs"
    with httpx.Client() as http:
        client = elevenlabs.ElevenLabs(api_key=customer.token, base_url=base_url, httpx_client=http)
        speech: Any = client.text_to_speech
        speech._ws_base_url = base_url.replace("http", "ws", 1)  # otherwise it uses TLS
        return b"".join(speech.convert_realtime("v1", text=iter([TEXT[:-1]]), model_id="eleven_v3"))


def by_cartesia(customer: Customer) -> bytes:
    url = f"{customer.gateway_url}/cartesia"
    sockets = url.replace("http", "ws", 1)
    asked: Any = {"model_id": "sonic-3", "voice": {"mode": "id", "id": "v"}, "output_format": Cartesia.format}
    with (
        cartesia.Cartesia(api_key=customer.token, base_url=url, websocket_base_url=sockets) as client,
        client.tts.websocket_connect() as connection,
    ):
        context = connection.context(**asked)
        context.send(transcript=TEXT, continue_=False, **asked)
        return b"".join(event.audio for event in context.receive() if event.type == "chunk" and event.audio)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the SDKs
@pytest.mark.parametrize(
    ("form", "speak"), [(Deepgram, by_deepgram), (ElevenLabs, by_elevenlabs), (Cartesia, by_cartesia)]
)
def test_their_sdks_and_characters_are_charged_once(
    customer: Customer, provider: SocketProvider, form: type[Speaker], speak: Callable[[Customer], bytes]
) -> None:
    provider.forget()
    provider.script = form()
    assert speak(customer) == SOUND
    settled(customer, LENGTH * form.rate)  # type: ignore[attr-defined]
    headers = str(list(provider.headers.raw_items()))
    assert OPERATOR_KEY in headers
    assert customer.token not in headers + provider.handshakes[-1].path


# --- text as it comes ---


@pytest.mark.parametrize("form", FORMS)
def test_text_is_held_for_before_it_goes_on_and_charged_as_it_is_spoken(
    customer: Customer, provider: SocketProvider, form: Any
) -> None:
    provider.forget()
    provider.script = form()
    with opened(customer, form.path) as connection:
        for number in range(1, 4):
            form.say(connection, TEXT)
            connection.recv()
            assert customer.balance.posted == 5 * NANOS_PER_USD - number * LENGTH * form.rate
        form.say(connection, "Good day. ")
        connection.recv()
        assert customer.balance.held == 500 * form.rate
        form.finish(connection)
        while not form.is_end(connection.recv()):
            pass
        assert customer.balance.posted == 5 * NANOS_PER_USD - (3 * LENGTH + 10) * form.rate
    settled(customer, (3 * LENGTH + 10) * form.rate)


def test_a_step_that_is_used_up_is_charged_before_more_is_sent(customer: Customer, provider: SocketProvider) -> None:
    provider.forget()
    provider.script = lambda connection: list(connection).clear()
    with opened(customer, Deepgram.path) as connection:
        Deepgram.say(connection, TEXT)
        Deepgram.say(connection, TEXT)
        until(lambda: customer.balance.posted == 5 * NANOS_PER_USD - LENGTH * Deepgram.rate)
        until(lambda: customer.balance.held == 500 * Deepgram.rate)
    settled(customer, 2 * LENGTH * Deepgram.rate)


@pytest.mark.parametrize("form", FORMS)
def test_credit_that_ends_ends_the_session(farebox: Farebox, provider: SocketProvider, form: Any) -> None:
    provider.forget()
    provider.script = played = form()
    customer = farebox.funded(f"{(500 + LENGTH) * form.rate / NANOS_PER_USD:.9f}")
    with opened(customer, form.path) as connection:
        for _ in range(2):  # the remainder, which is less than a step and therefore too little
            form.say(connection, TEXT)
            connection.recv()
        form.say(connection, TEXT)
        assert await_close(connection)[0] == 4402
    assert len(played.sent) == 2
    settled(customer, 2 * LENGTH * form.rate, (500 + LENGTH) * form.rate)


def test_a_confirmation_charges_all_that_was_sent(farebox: Farebox, provider: SocketProvider) -> None:
    """So that no part remains for which the credit does not cover another step."""
    provider.forget()

    def confirm_late(connection: ServerConnection) -> None:
        for _ in range(3):
            connection.recv()
        connection.send(json.dumps({"type": "Flushed", "sequence_id": 0}))
        list(connection)

    provider.script = confirm_late
    customer = farebox.funded(f"{500 * Deepgram.rate / NANOS_PER_USD:.9f}")
    with opened(customer, Deepgram.path) as connection:
        Deepgram.say(connection, "Good day. ")
        Deepgram.finish(connection)
        Deepgram.say(connection, "Hello")
        connection.recv()
        assert (customer.balance.posted, customer.balance.held) == (485 * Deepgram.rate, 0)
        Deepgram.say(connection, "Good day. ")
        assert await_close(connection)[0] == 4402
    settled(customer, 15 * Deepgram.rate, 500 * Deepgram.rate)


def test_an_error_may_be_about_what_was_charged_with_the_text_before(
    customer: Customer, provider: SocketProvider
) -> None:
    provider.forget()

    def refuse_the_second(connection: ServerConnection) -> None:
        for _ in range(2):
            connection.recv()
        connection.send(json.dumps({"type": "done", "done": True, "status_code": 200}))
        connection.recv()
        connection.send(json.dumps({"type": "error", "error": "no such voice", "status_code": 400}))
        list(connection)

    provider.script = refuse_the_second
    with opened(customer, Cartesia.path) as connection:
        Cartesia.say(connection, "Good day. ", more=False)
        Cartesia.say(connection, "Hello", more=False)
        connection.recv()
        Cartesia.say(connection, "Good night.", more=False)
        connection.recv()
    settled(customer, (10 + 5 + 11) * Cartesia.rate)


@pytest.mark.parametrize(("texts", "charged"), [((TEXT,), 0), ((TEXT, "B"), LENGTH + 1)])
def test_an_error_frees_only_what_it_is_surely_about(
    customer: Customer, provider: SocketProvider, texts: tuple[str, ...], charged: int
) -> None:
    provider.forget()

    def refuse_the_last(connection: ServerConnection) -> None:
        for _ in texts:
            connection.recv()
        connection.send(json.dumps({"type": "error", "error": "no such voice", "status_code": 400}))
        for _ in texts[1:]:
            connection.send(json.dumps({"type": "chunk", "data": CODED, "done": False, "status_code": 206}))
            connection.send(json.dumps({"type": "done", "done": True, "status_code": 200}))

    provider.script = refuse_the_last
    with opened(customer, Cartesia.path) as connection:
        for text in texts:
            Cartesia.say(connection, text, more=False)
        await_close(connection)
    settled(customer, charged * Cartesia.rate)


# --- audio that is transcribed ---


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the SDK
def test_deepgram_s_sdk_and_seconds_are_charged_as_they_are_heard(customer: Customer, provider: SocketProvider) -> None:
    provider.forget()
    provider.script = Listener(80)
    url = f"{customer.gateway_url}/deepgram"
    environment = deepgram.DeepgramClientEnvironment(
        base=url, production=url.replace("http", "ws", 1), agent=url, agent_rest=url
    )
    with (
        httpx.Client() as http,
        deepgram.DeepgramClient(api_key=customer.token, environment=environment, httpx_client=http).listen.v1.connect(
            model="nova-3", encoding="linear16", sample_rate=16_000
        ) as connection,
    ):
        for _ in range(8):
            connection.send_media(SECOND * 10)
        assert connection.recv().type == "Results"
        balance = customer.balance
        assert (balance.posted, balance.held) == (5 * NANOS_PER_USD - 60 * HEARD, 60 * HEARD)
        connection.send_media(SECOND)
        connection.send_close_stream()
        assert connection.recv().type == "Metadata"
        assert customer.balance.posted == 5 * NANOS_PER_USD - int(81.5 * HEARD)
    settled(customer, int(81.5 * HEARD))
    assert {row["model"] for row in log_rows(customer) if row["cost"]} == {"nova-3+streaming"}


def test_audio_is_charged_as_it_is_sent_until_credit_ends(farebox: Farebox, provider: SocketProvider) -> None:
    provider.forget()
    provider.script = listener = Listener(1_000)
    customer = farebox.funded(f"{100 * HEARD / NANOS_PER_USD:.9f}")
    with opened(customer, LISTEN) as connection:
        for number in range(1, 7):
            connection.send(SECOND * 10)
            until(lambda: listener.heard == number * 10)  # noqa: B023 - called here
        connection.send(SECOND * 10)
        assert await_close(connection)[0] == 4402
    assert listener.heard == 60
    settled(customer, 60 * HEARD, 100 * HEARD)


def test_nothing_is_left_to_charge_after_the_duration_is_stated(customer: Customer, provider: SocketProvider) -> None:
    provider.forget()
    provider.script = Listener(more=0)
    with opened(customer, LISTEN) as connection:
        connection.send(SECOND * 12 + bytes(2))
        connection.send(json.dumps({"type": "CloseStream"}))
        while "Metadata" not in str(connection.recv()):
            pass
        assert customer.balance.held == 0
    settled(customer, 12 * HEARD)
    assert len([row for row in log_rows(customer) if row["cost"]]) == 1


_HUGE: Final = '{"type": 1e99999999999999999999}'


@pytest.mark.parametrize(
    ("path", "last"),
    [
        *((LISTEN, last) for last in ('{"type": "x"}', "{", '{"type": []}', _HUGE, '{"type":"x","type":"KeepAlive"}')),
        (Deepgram.path, '{"type": "x"}'),
        (Deepgram.path, "{"),
    ],
)
def test_a_message_that_ends_the_session_frees_nothing_that_was_sent(
    customer: Customer, provider: SocketProvider, path: str, last: str
) -> None:
    provider.forget()
    provider.script = lambda connection: list(connection).clear()
    with opened(customer, path) as connection:
        if path == LISTEN:
            connection.send(SECOND * 60)
        else:
            Deepgram.say(connection, TEXT)
        connection.send(last)
        assert await_close(connection)[0] == 4400
    settled(customer, 60 * HEARD if path == LISTEN else LENGTH * Deepgram.rate)


def test_json_in_a_binary_frame_is_audio(customer: Customer, provider: SocketProvider) -> None:
    provider.forget()
    provider.script = Listener()
    with opened(customer, LISTEN) as connection:
        connection.send(b'{"type":"KeepAlive"}' + b" " * 32_000)
        until(lambda: customer.balance.held > 0)
        connection.send(json.dumps({"type": "Configure"}))
        assert await_close(connection)[0] == 4400


# --- what is refused ---


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (Deepgram.path, {"type": "Configure"}),
        (Deepgram.path, {"type": "Speak", "text": ["Good day"]}),
        (ElevenLabs.path, {"text": "Good day", "xi_api_key": "a key"}),
        (Cartesia.path, {"transcript": "Good day", "context_id": "c"}),
        (Cartesia.path, {"transcript": "Good day", "model_id": "sonic-unpriced", "context_id": "c"}),
        (Cartesia.path, {"transcript": "Good day", "model_id": "sonic-3", "something_new": 1}),
        (Cartesia.path, {"cancel": "no", "transcript": "Good day", "model_id": "sonic-3", "context_id": "c"}),
        (Cartesia.path, {"cancel": True, "transcript": "Good day", "model_id": "sonic-3", "context_id": "c"}),
        (Cartesia.path, {"cancel": "no", "context_id": "c"}),
    ],
)
def test_what_cannot_be_charged_goes_no_further(
    customer: Customer, provider: SocketProvider, path: str, message: dict[str, Any]
) -> None:
    provider.forget()
    provider.script = played = Cartesia()
    with opened(customer, path) as connection:
        connection.send(json.dumps(message))
        assert await_close(connection)[0] == 4400
    assert played.sent == []
    settled(customer, 0)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{Deepgram.path}&model=aura-asteria-en", 400),
        (f"{Deepgram.path}&callback=https://example.com", 400),
        ("elevenlabs/v1/text-to-speech/v1/stream-input", 400),
        (f"{Cartesia.path}&access_token=a", 400),
        ("elevenlabs/v1/text-to-speech/v1/multi-stream-input?model_id=eleven_v3", 426),
        ("deepgram/v1/listen?model=nova-3", 400),
        (f"{LISTEN}&encoding=mulaw", 400),
        (f"{LISTEN}&multichannel=true", 400),
        (f"{LISTEN}&channels=2", 400),
        (f"{LISTEN}&summarize=true", 400),
        ("deepgram/v2/listen", 426),
        ("cartesia/stt/websocket", 426),
    ],
)
def test_sessions_that_are_not_opened(customer: Customer, path: str, status: int) -> None:
    with pytest.raises(InvalidStatus, match=f"HTTP {status}"):
        opened(customer, path)
