"""A provider of OpenAI's Realtime API with predictable figures."""

import base64
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from websockets.sync.server import ServerConnection

from tests.websockets.kit import receive, send

MODEL = "gpt-realtime"
RATES = {"text_in": 4_000, "audio_in": 32_000, "cached": 400, "text_out": 16_000, "audio_out": 64_000}
"""Nano-dollars a token, of the list's gpt-realtime."""
SECOND = base64.b64encode(bytes(48_000)).decode()
"""A second of silence, as the API takes it."""


def usage(
    text_in: int = 0, audio_in: int = 0, cached: int = 0, text_out: int = 0, audio_out: int = 0
) -> dict[str, Any]:
    """A usage object; cached tokens are part of the text."""
    return {
        "total_tokens": text_in + audio_in + text_out + audio_out,
        "input_tokens": text_in + audio_in,
        "output_tokens": text_out + audio_out,
        "input_token_details": {
            "text_tokens": text_in,
            "audio_tokens": audio_in,
            "image_tokens": 0,
            "cached_tokens": cached,
            "cached_tokens_details": {"text_tokens": cached, "audio_tokens": 0, "image_tokens": 0},
        },
        "output_token_details": {"text_tokens": text_out, "audio_tokens": audio_out},
    }


def cost(text_in: int = 0, audio_in: int = 0, cached: int = 0, text_out: int = 0, audio_out: int = 0) -> int:
    """Its price in nano-dollars."""
    return (
        (text_in - cached) * RATES["text_in"]
        + cached * RATES["cached"]
        + audio_in * RATES["audio_in"]
        + text_out * RATES["text_out"]
        + audio_out * RATES["audio_out"]
    )


@dataclass
class Realtime:
    """Plays sessions: responds to each `response.create`, and to audio if configured."""

    used: dict[str, int] = field(default_factory=lambda: {"text_in": 100, "text_out": 20, "audio_out": 40})
    """What each response uses."""
    transcript_usage: dict[str, Any] | None = None
    """Where audio is transcribed."""
    hears_every: int = 0
    """Appended pieces of audio after which somebody has stopped speaking; 0: nobody ever does."""
    session: dict[str, Any] = field(default_factory=dict)
    confirms: bool = True
    """Whether updates of the session are confirmed."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """What has come."""
    before_done: Callable[[ServerConnection], None] = lambda _: None
    """Called where a response has been delivered, and not ended."""
    numbers: Any = field(default_factory=itertools.count)

    def __call__(self, connection: ServerConnection) -> None:
        send(connection, type="session.created", event_id="e0", session={"type": "realtime", **self.session})
        heard = 0
        for message in connection:
            event = json.loads(message)
            self.events.append(event)
            match event["type"]:
                case "session.update" if self.confirms:
                    send(connection, type="session.updated", session=event["session"])
                case "response.create":
                    self.respond(connection, (event.get("response") or {}).get("max_output_tokens"))
                case "response.cancel":
                    send(connection, type="error", error={"type": "x", "code": "response_cancel_not_active"})
                case "input_audio_buffer.append":
                    heard += 1
                    if self.hears_every and heard % self.hears_every == 0:
                        self.commit(connection)
                        self.respond(connection)
                case "input_audio_buffer.commit":
                    self.commit(connection)
                case other:
                    send(connection, type=f"seen.{other}")

    def commit(self, connection: ServerConnection) -> None:
        item = f"item_{next(self.numbers)}"
        send(connection, type="input_audio_buffer.committed", item_id=item)
        if self.transcript_usage is not None:
            kind = "conversation.item.input_audio_transcription.completed"
            send(connection, type=kind, item_id=item, transcript="hello", usage=self.transcript_usage)

    def respond(self, connection: ServerConnection, most: int | None = None) -> None:
        response = {"id": f"resp_{next(self.numbers)}", "object": "realtime.response", "conversation_id": "conv_1"}
        where = {"response_id": response["id"], "item_id": "i", "output_index": 0, "content_index": 0}
        send(connection, type="response.created", response={**response, "status": "in_progress"})
        send(connection, type="response.output_audio.delta", delta=SECOND, **where)
        send(connection, type="response.output_audio_transcript.delta", delta="Hello there", **where)
        self.before_done(connection)
        used = self.used if most is None else {**self.used, "audio_out": min(self.used.get("audio_out", 0), most)}
        done = {**response, "status": "completed", "usage": usage(**used)}
        send(connection, type="response.done", event_id="d", response=done)


def await_event(connection: Any, kind: str) -> dict[str, Any]:
    """The next event of this type."""
    while (event := receive(connection))["type"] != kind:
        pass
    return event
