"""Every kind of session that is paid from credit, each with a conversation in which the cost of every message is
known."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from farebox.clock import Ids
from farebox.operator import administer, prices
from farebox.storage.sql import Connection
from farebox.vault import Vault
from tests.calls.kit import OPERATOR_KEY
from tests.engines import TESTER
from tests.websockets import live, realtime, responses, speech
from tests.websockets.kit import SECONDS, Script, receive, send
from tests.websockets.live import Live
from tests.websockets.realtime import Realtime
from tests.websockets.responses import Responses
from tests.websockets.speech import FORMS, HEARD, LENGTH, LISTEN, TEXT, Listener

SHORT: Final = "Good day. "
"""Text that is charged only when it has been spoken."""
PART: Final = 40
"""Seconds of audio in a message."""


@dataclass(frozen=True)
class Kind:
    """A kind of session."""

    name: str
    path: str
    play: Callable[[], Script]
    """The provider's side."""
    talk: Callable[[Any], None]
    """The client's side: sends each message once the previous one was answered. Raises ConnectionClosed."""
    held_at: int
    """The number of messages, in both directions, up to the first that is held for."""
    takes: tuple[int, ...]
    """The maximum cost of each client message, in nano-dollars."""
    pays: tuple[int, ...]
    """The charge before each provider message is relayed, in nano-dollars."""
    by_unit: bool = False
    """Whether sent messages are charged whichever side ends the session."""

    def __str__(self) -> str:
        return self.name


_REALTIME: Final = realtime.cost(text_in=100, text_out=20, audio_out=40)
_LIVE: Final = live.turn_cost()
# An interrupted response is charged for reading the previous one's output and all received audio.
_REALTIME_AGAIN: Final = _REALTIME + realtime.cost(text_in=20, audio_in=40 + 4 * 10)
_LIVE_AGAIN: Final = _LIVE + live.cost(text_in=30, audio_in=40 + 4 * 32)
_QUIET: Final = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}


def _talk_realtime(connection: Any) -> None:
    receive(connection)
    send(connection, type="session.update", session=_QUIET)
    receive(connection)
    for _ in range(2):
        send(connection, type="response.create", response={"max_output_tokens": 100})
        realtime.await_event(connection, "response.done")


def _talk_heard(connection: Any) -> None:
    receive(connection)
    for _ in range(2):
        for _ in range(2):
            send(connection, type="input_audio_buffer.append", audio=realtime.SECOND)
        realtime.await_event(connection, "response.done")


def _set_up(connection: Any) -> None:
    config = {"maxOutputTokens": 100}
    live.say(connection, setup={"model": f"models/{live.MODEL}", "generationConfig": config})


def _talk_live(connection: Any) -> None:
    _set_up(connection)
    live.hear(connection)
    for _ in range(2):
        live.ask(connection)
        live.await_turn(connection)


def _talk_live_heard(connection: Any) -> None:
    _set_up(connection)
    live.hear(connection)
    for _ in range(2):
        live.speak(connection)
        live.speak(connection)
        live.await_turn(connection)


def _talk_responses(connection: Any) -> None:
    asked = {"model": responses.MODEL, "input": "Hello", "store": False, "max_output_tokens": 50}
    for _ in range(2):
        send(connection, type="response.create", **asked)
        realtime.await_event(connection, "response.completed")


def _talk_listen(connection: Any) -> None:
    for _ in range(2):
        connection.send(speech.SECOND * PART)
        connection.recv(SECONDS)
    send(connection, type="CloseStream")
    connection.recv(SECONDS)


def _speaking(form: Any) -> Kind:
    def talk(connection: Any) -> None:
        for text in (TEXT, TEXT, SHORT):
            form.say(connection, text)
            connection.recv(SECONDS)
        form.finish(connection)
        connection.recv(SECONDS)

    long, short = LENGTH * form.rate, len(SHORT) * form.rate
    takes, pays = (long, long, short, 0), (long, long, 0, short)
    return Kind(f"{form.slug}-speech", form.path, form, talk, 1, takes, pays, by_unit=True)


_TURN_PATH: Final = f"openai/realtime?model={realtime.MODEL}"

KINDS: Final = (
    Kind(
        "realtime",
        _TURN_PATH,
        Realtime,
        _talk_realtime,
        4,
        (0, _REALTIME, _REALTIME_AGAIN),
        (0, 0, *(0, 0, 0, _REALTIME) * 2),
    ),
    Kind(
        "realtime-heard",
        _TURN_PATH,
        lambda: Realtime(hears_every=2),
        _talk_heard,
        2,
        (0, _REALTIME, 0, _REALTIME_AGAIN),
        (0, *(0, 0, 0, 0, _REALTIME) * 2),
    ),
    Kind(
        "responses",
        "openai/responses",
        Responses,
        _talk_responses,
        1,
        (responses.TURN,) * 2,
        (0, 0, responses.TURN) * 2,
    ),
    Kind(
        "live",
        live.PATH,
        lambda: Live(grows=False),
        _talk_live,
        1,
        (0, _LIVE, _LIVE_AGAIN),
        (0, *(0, 0, 0, _LIVE) * 2),
    ),
    Kind(
        "live-heard",
        live.PATH,
        lambda: Live(grows=False, hears_every=2),
        _talk_live_heard,
        1,
        (0, 0, _LIVE, 0, _LIVE_AGAIN),
        (0, *(0, 0, 0, _LIVE) * 2),
    ),
    *map(_speaking, FORMS),
    Kind(
        "listen",
        LISTEN,
        lambda: Listener(PART, more=0),
        _talk_listen,
        1,
        (PART * HEARD, PART * HEARD, 0),
        (0, PART * HEARD, PART * HEARD),
        by_unit=True,
    ),
)


def prepare(connection: Connection, ids: Ids, vault: Vault, at: int, url: str) -> None:
    """The operator's keys for a provider at this URL, and the prices that the list lacks."""
    for slug in sorted({kind.path.partition("/")[0] for kind in KINDS}):
        administer.set_provider(connection, vault, by=TESTER, name=slug, at=at, base_url=url, api_key=OPERATOR_KEY)
    rates = {"input_mtok": "1", "output_mtok": "2"}
    prices.set_price(
        connection, ids, by=TESTER, provider="openai", model=responses.MODEL, rates=rates, output_max=4096, at=at
    )
    speech.price_sessions(connection, ids, at)
