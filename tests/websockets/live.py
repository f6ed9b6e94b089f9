"""A provider of Google's Live API with predictable figures. Its JSON is in binary frames, like Google's."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from websockets.sync.client import ClientConnection
from websockets.sync.server import ServerConnection

from tests.providers.http1_kit import authority
from tests.support import Customer
from tests.websockets.kit import SECONDS, opened

MODEL = "gemini-3.8-live"
PATH = "google-ai-studio/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
RATES = {"text_in": 750, "audio_in": 3_000, "image_in": 1_000, "text_out": 4_500, "audio_out": 12_000}
"""Nano-dollars a token, of the list's gemini-3.8-live."""
HEARD = base64.b64encode(bytes(32_000)).decode()
"""A second of silence, as the model hears it."""
SAID = base64.b64encode(bytes(48_000)).decode()
"""A second of silence, as it speaks."""
TURN_USED = {"text_in": 400, "audio_in": 165, "audio_out": 40, "thoughts": 30}


def usage(
    text_in: int = 0, audio_in: int = 0, image_in: int = 0, text_out: int = 0, audio_out: int = 0, thoughts: int = 0
) -> dict[str, Any]:
    """A usage object. A part of the text read is in no detail, and the total leaves out what was thought."""
    found: dict[str, Any] = {
        "promptTokenCount": text_in + audio_in + image_in,
        "responseTokenCount": text_out + audio_out,
        "totalTokenCount": text_in + audio_in + image_in + text_out + audio_out,
        "promptTokensDetails": _details(TEXT=max(0, text_in - 25), AUDIO=audio_in, IMAGE=image_in),
        "responseTokensDetails": _details(TEXT=text_out, AUDIO=audio_out),
    }
    return found | ({"thoughtsTokenCount": thoughts} if thoughts else {})


def _details(**counts: int) -> list[dict[str, Any]]:
    return [{"modality": modality, "tokenCount": count} for modality, count in counts.items() if count]


def cost(thoughts: int = 0, **used: int) -> int:
    """The price of a usage object, in nano-dollars."""
    return sum(count * RATES[name] for name, count in used.items()) + thoughts * RATES["text_out"]


def spoken(seconds: int = 1) -> dict[str, Any]:
    """A message with part of a response."""
    part = {"inlineData": {"mimeType": "audio/pcm;rate=24000", "data": SAID}}
    return {"serverContent": {"modelTurn": {"role": "model", "parts": [part] * seconds}}}


def tell(connection: Any, **message: Any) -> None:
    """A message of the provider's."""
    connection.send(json.dumps(message).encode())


@dataclass
class Live:
    """Plays sessions: responds to content that asks for it, to audio if configured, and to function results."""

    used: dict[str, int] = field(default_factory=lambda: dict(TURN_USED))
    """What each response uses."""
    grows: bool = True
    """Whether the input grows by one token per response."""
    hears_every: int = 0
    """Pieces of audio after which somebody has stopped speaking; 0: nobody ever does."""
    calls_first: bool = False
    """Whether each content is answered with the call of a function."""
    answers: list[list[dict[str, Any]]] = field(default_factory=list)
    """The messages of the next responses, instead of the usual ones."""
    sent: list[dict[str, Any]] = field(default_factory=list)
    """What has come."""
    before_done: Callable[[ServerConnection], None] = lambda _: None
    """Called where a response has been delivered, and not ended."""
    responses: int = 0

    def __call__(self, connection: ServerConnection) -> None:
        heard = 0
        for message in connection:
            found = json.loads(message)
            self.sent.append(found)
            ((kind, value),) = ((kind, value) for kind, value in found.items() if value is not None)
            if kind == "setup":
                tell(connection, setupComplete={})
            elif kind in ("client_content", "clientContent"):
                if value.get("turn_complete") or value.get("turnComplete"):
                    self.respond(connection, calls=self.calls_first)
            elif kind in ("tool_response", "toolResponse"):
                self.respond(connection)
            else:
                heard += 1
                if self.hears_every and heard % self.hears_every == 0:
                    self.respond(connection)

    def respond(self, connection: ServerConnection, *, calls: bool = False) -> None:
        used = usage(**{**self.used, "text_in": self.used["text_in"] + self.grows * self.responses})
        self.responses += 1
        if calls:
            call = {"id": f"call_{self.responses}", "name": "look_up", "args": {"word": "tide"}}
            tell(connection, toolCall={"functionCalls": [call]}, usageMetadata=used)
            tell(connection, serverContent={"turnComplete": True})
            return
        for message in self.answers.pop(0) if self.answers else self._usual(connection, used):
            tell(connection, **message)

    def _usual(self, connection: ServerConnection, used: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield spoken()
        yield {"serverContent": {"outputTranscription": {"text": "Hello there"}}}
        self.before_done(connection)
        yield {"serverContent": {"generationComplete": True}}
        yield {"serverContent": {"turnComplete": True}, "usageMetadata": used}


def turn_cost(number: int = 0) -> int:
    """The cost of the response with this number, from 0, with default settings."""
    return cost(**{**TURN_USED, "text_in": TURN_USED["text_in"] + number})


def set_up(customer: Customer, path: str = PATH, **setup: Any) -> ClientConnection:
    """A session whose first message has been sent."""
    connection = opened(customer, path)
    say(connection, setup={"model": f"models/{MODEL}", **setup})
    return connection


def session(customer: Customer, path: str = PATH, **setup: Any) -> ClientConnection:
    """A session that is set up, with responses that are limited."""
    connection = set_up(customer, path, **{"generationConfig": {"maxOutputTokens": 100}, **setup})
    assert hear(connection) == {"setupComplete": {}}
    return connection


def say(connection: Any, **message: Any) -> None:
    """A message of the client's."""
    connection.send(json.dumps(message))


def ask(connection: Any, text: str = "Hello") -> None:
    """Content that asks for a response."""
    turns = [{"role": "user", "parts": [{"text": text}]}]
    say(connection, clientContent={"turns": turns, "turnComplete": True})


def hear(connection: Any) -> dict[str, Any]:
    """The next message."""
    found: dict[str, Any] = json.loads(connection.recv(SECONDS))
    return found


def await_turn(connection: Any) -> dict[str, Any]:
    """The next message by which a turn is complete."""
    while not (found := hear(connection)).get("serverContent", {}).get("turnComplete"):
        pass
    return found


def speak(connection: Any, data: str = HEARD) -> None:
    """A piece of audio."""
    say(connection, realtimeInput={"audio": {"data": data, "mimeType": "audio/pcm;rate=16000"}})


@contextlib.asynccontextmanager
async def sdk_options(customer: Customer, place: str) -> AsyncIterator[Any]:
    """The options with which google-genai calls this place behind TLS: it asks for `wss` whatever its base URL says."""
    server_tls, client_tls = authority("127.0.0.1")
    behind = urlsplit(customer.farebox.url)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(behind.hostname, behind.port)
        await asyncio.gather(pass_on(reader, back), pass_on(there, writer))

    async with await asyncio.start_server(both, "127.0.0.1", 0, ssl=server_tls) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        base_url = f"{customer.gateway_url.replace(customer.farebox.url, url)}/{place}"
        yield {"base_url": base_url, "async_client_args": {"ssl": client_tls}}


async def tokens_read(connection: Any) -> int:
    """The tokens that the next turn has read."""
    read = [
        message.usage_metadata.prompt_token_count async for message in connection.receive() if message.usage_metadata
    ]
    return int(read[-1])
