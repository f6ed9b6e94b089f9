"""Providers of text-to-speech and of transcription with predictable charges."""

import base64
import json
from dataclasses import dataclass, field
from typing import Any, Final

from websockets.sync.server import ServerConnection

from farebox.clock import Ids
from farebox.operator import prices
from farebox.storage.sql import Connection
from tests.calls.kit import forget
from tests.engines import TESTER
from tests.support import Farebox

SOUND: Final = bytes(4_800)
CODED: Final = base64.b64encode(SOUND).decode()
TEXT: Final = "Good day to you. " * 18
"""More characters than may stay uncharged until everything is spoken."""
LENGTH: Final = len(TEXT)


@dataclass
class Speaker:
    """Speaks received text, in one provider's format."""

    sent: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, connection: ServerConnection) -> None:
        for message in connection:
            found = json.loads(message)
            self.sent.append(found)
            self.answer(connection, found)

    def answer(self, connection: ServerConnection, message: dict[str, Any]) -> None:
        """To one message."""
        raise NotImplementedError


class Deepgram(Speaker):
    slug, path, rate = "deepgram", "deepgram/v1/speak?model=aura-2-thalia-en", 30_000

    def answer(self, connection: ServerConnection, message: dict[str, Any]) -> None:
        if message["type"] == "Speak":
            connection.send(SOUND)
        elif message["type"] == "Flush":
            connection.send(json.dumps({"type": "Flushed", "sequence_id": 0}))

    @staticmethod
    def say(connection: Any, text: str) -> None:
        connection.send(json.dumps({"type": "Speak", "text": text}))

    @staticmethod
    def finish(connection: Any) -> None:
        connection.send(json.dumps({"type": "Flush"}))

    @staticmethod
    def is_end(message: Any) -> bool:
        return "Flushed" in str(message)


class ElevenLabs(Speaker):
    slug, path, rate = "elevenlabs", "elevenlabs/v1/text-to-speech/v1/stream-input?model_id=eleven_v3", 80_000

    def answer(self, connection: ServerConnection, message: dict[str, Any]) -> None:
        if message["text"].strip():
            connection.send(json.dumps({"audio": CODED, "isFinal": None}))
        elif message["text"] == "":
            connection.send(json.dumps({"audio": None, "isFinal": True}))
            connection.close()

    @staticmethod
    def say(connection: Any, text: str) -> None:
        connection.send(json.dumps({"text": text, "try_trigger_generation": True}))

    @staticmethod
    def finish(connection: Any) -> None:
        connection.send(json.dumps({"text": ""}))

    @staticmethod
    def is_end(message: Any) -> bool:
        return '"isFinal": true' in str(message)


class Cartesia(Speaker):
    slug, path, rate = "cartesia", "cartesia/tts/websocket?cartesia_version=2025-04-16", 50_000
    format: Final = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 24_000}

    def answer(self, connection: ServerConnection, message: dict[str, Any]) -> None:
        more = {"context_id": message["context_id"], "status_code": 206}
        if message["transcript"]:
            connection.send(json.dumps({"type": "chunk", "data": CODED, "done": False, "step_time": 1.0, **more}))
        if not message.get("continue"):
            connection.send(json.dumps({"type": "done", "done": True, **more}))

    @staticmethod
    def say(connection: Any, text: str, *, more: bool = True) -> None:
        said = {"model_id": "sonic-3", "transcript": text, "context_id": "c", "continue": more}
        voice = {"mode": "id", "id": "v"}
        connection.send(json.dumps({**said, "voice": voice, "output_format": Cartesia.format}))

    @staticmethod
    def finish(connection: Any) -> None:
        Cartesia.say(connection, "", more=False)

    @staticmethod
    def is_end(message: Any) -> bool:
        return '"done": true' in str(message)


FORMS = (Deepgram, ElevenLabs, Cartesia)

LISTEN: Final = "deepgram/v1/listen?model=nova-3&encoding=linear16&sample_rate=16000"
SECOND: Final = bytes(32_000)
HEARD: Final = 100_000
"""Nano-dollars a second."""


class Listener:
    """Sends a transcript at regular intervals of the audio that arrives."""

    def __init__(self, every: int = 10, more: float = 0.5) -> None:
        self.heard = self.reported = 0
        self.every = every
        self.more = more
        """Seconds that it states at the end beyond those that we counted."""

    def __call__(self, connection: ServerConnection) -> None:
        for message in connection:
            if isinstance(message, str):
                if json.loads(message)["type"] == "CloseStream":
                    connection.send(json.dumps({"type": "Metadata", "duration": self.heard + self.more, "channels": 1}))
                    return
                continue
            self.heard += len(message) // 32_000
            if self.heard - self.reported >= self.every:
                heard = {"start": float(self.reported), "duration": float(self.heard - self.reported), "is_final": True}
                self.reported = self.heard
                connection.send(json.dumps({"type": "Results", "channel": {"alternatives": []}, **heard}))


def price_sessions(connection: Connection, ids: Ids, at: int) -> None:
    """Set prices for Cartesia's model and for streamed audio, which the list lacks."""
    for slug, model, rates in (
        ("cartesia", "sonic-3", {"input_mchars": "50"}),
        ("deepgram", "nova-3+streaming", {"audio_hours": "0.36"}),
    ):
        prices.set_price(connection, ids, by=TESTER, provider=slug, model=model, rates=rates, output_max=None, at=at)


def set_prices(farebox: Farebox) -> None:
    """`price_sessions`, on a server."""
    services = farebox.services
    at = services.clock.now_ms() - 1_000
    farebox.run(services.database.write(lambda connection: price_sessions(connection, services.ids, at)))
    forget(farebox)
