"""Workers AI's own format: `run/@cf/author/model`, with the model in the path."""

import math
import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from farebox.pricing.model import Demand
from farebox.providers.audio.length import AudioLength, audio_length
from farebox.providers.formats import bodies, tools
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, ResponseReader
from farebox.providers.formats.event_reader import EventReader
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.media import encoded_length, with_attachments, with_text
from farebox.providers.formats.meters import Reading
from farebox.providers.formats.readers import BodyReader, Seen
from farebox.providers.formats.tools import DeclaredTool
from farebox.usage import Quantity

MODEL_PATH: Final = re.compile(r"(?:^|/)run/(?P<model>@[a-z]+/[A-Za-z0-9._-]+/[A-Za-z0-9._-]+)$")
READING: Final = Reading(
    ("input_tokens", "prompt_tokens", "input_tokens"),
    ("cache_read_tokens", "prompt_tokens_details.cached_tokens", "input_tokens_details.cached_tokens"),
    ("output_tokens", "completion_tokens", "output_tokens"),
    (
        "output_reasoning_tokens",
        "completion_tokens_details.reasoning_tokens",
        "output_tokens_details.reasoning_tokens",
    ),
    required=("input_tokens",),
)
TRANSCRIPTION: Final = Reading(("audio_seconds", "seconds"), ("input_audio_seconds", "seconds"))
"""Meters of a transcribed recording."""
QUEUED: Final = "a queued request is acknowledged before its usage is known"
_JSON: Final = frozenset({b"{", b" ", b"\n", b"\r", b"\t", b""})


class _RequestMessage(msgspec.Struct):
    """A message of the request."""

    content: Any = None


class _Head(msgspec.Struct):
    messages: list[_RequestMessage] | None = None
    prompt: Any = None
    text: Any = None
    stream: bool | None = None
    max_tokens: bodies.Tokens | None = None
    tools: list[DeclaredTool] | None = None
    audio: Any = None
    queueRequest: Any = None
    requests: Any = None
    request_id: Any = None
    options: Any = None


class _Result(msgspec.Struct):
    """`response` of older models, `choices` or `output` of newer ones."""

    response: Any = None
    choices: Any = None
    output: Any = None
    tool_calls: Any = None
    usage: Any = None
    model: Any = None
    transcription_info: Any = None


class _Response(_Result):
    result: _Result | None = None
    success: Any = None
    errors: Any = None
    error: Any = None


_HEAD: Final = msgspec.json.Decoder(_Head)
_RESPONSE: Final = ResponseDecoder[_Response](_Response)


@dataclass(frozen=True, slots=True)
class WorkersAIRun(bodies.JsonBody):
    """`run/@cf/…`."""

    name: str = "workers_ai_run"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        place = MODEL_PATH.search(path)
        if place is None:
            raise InvalidRequest("The path names no model: use `run/@cf/<author>/<model>`.")
        if body[:1] not in _JSON:  # a raw recording
            length = audio_length(body)
            return ParsedRequest(place["model"], stream=False, demand=_heard(Demand(place["model"]), length))
        head = bodies.decode(_HEAD, body)
        demand = Demand(
            model=place["model"],
            text_bytes=len(body),
            messages=len(head.messages or ()) or 1,
            tools=len(head.tools or ()),
            output_max=head.max_tokens,
            clampable=True,
            limited_by="max_tokens",
            fixed=_spoken(head),
        )
        demand = with_attachments(demand, [message.content for message in head.messages or ()])
        if exact:
            demand = with_text(demand, body, "messages", "content")
        if head.audio is not None:
            length, encoded = _recording(head.audio)
            demand = _heard(replace(demand, text_bytes=max(0, demand.text_bytes - encoded)), length)
        declared = tools.of_chat(head.tools)
        unmetered = QUEUED if _queued(head) else tools.unmetered(declared)
        return ParsedRequest(
            demand.model, head.stream is True, demand, unmetered=unmetered, tools=tools.names(declared)
        )

    def limit_output(self, body: bytes, tokens: int) -> bytes:
        """Set `max_tokens`."""
        return bodies.changed(body, max_tokens=tokens)

    def replace_model(self, body: bytes, model: str) -> bytes:
        """The path names the model; the body stays."""
        return body

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        if streaming:
            return EventReader(_parse_event, READING)
        return BodyReader(_parse_body, TRANSCRIPTION if parsed.demand.audio_seconds_max else READING)


def _queued(head: _Head) -> bool:
    later = head.queueRequest or (isinstance(head.options, dict) and head.options.get("queueRequest"))
    return bool(later) or head.requests is not None or head.request_id is not None


def _spoken(head: _Head) -> dict[str, Quantity]:
    """The usage by which speech may be priced: the characters of its text."""
    return {"input_characters": len(head.text)} if isinstance(head.text, str) else {}


def _recording(audio: object) -> tuple[AudioLength, int]:
    """The duration of a recording in JSON, as base64 or as a list of bytes, and its size in the body."""
    if isinstance(audio, dict):  # of Deepgram's models, with its content type
        audio = audio.get("body")
    if isinstance(audio, str):
        return encoded_length("audio/", audio), len(audio)
    if isinstance(audio, list) and all(type(byte) is int and 0 <= byte < 256 for byte in audio):
        return audio_length(bytes(audio)), 2 * len(audio)
    raise InvalidRequest("Expected base64, or a list of bytes - at `$.audio`.")


def _heard(demand: Demand, length: AudioLength) -> Demand:
    seconds, most = math.ceil(length.seconds), math.ceil(length.most)
    return replace(
        demand, audio_seconds=seconds, audio_seconds_max=most, no_output=True, clampable=False, limited_by=""
    )


def _parse_event(seen: Seen, data: bytes) -> bool:
    event = _RESPONSE.decode(data)
    _collect_usage(seen, event)
    seen.failed = seen.failed or bool(event.errors or event.error)
    return True


def _parse_body(seen: Seen, body: bytes) -> None:
    response = _RESPONSE.decode(body)
    _collect_usage(seen, response.result or response)
    seen.complete = True
    seen.failed = response.success is False


def _collect_usage(seen: Seen, result: _Result) -> None:
    seen.update(result.usage, result.model)
    if isinstance(result.transcription_info, dict):
        seen.update({"seconds": result.transcription_info.get("duration")})
    seen.add_text(result.response)
    seen.add_text(result.tool_calls)
    for choice in result.choices if isinstance(result.choices, list) else ():
        if isinstance(choice, dict):
            seen.add_text(choice.get("delta") or choice.get("message"))
            if choice.get("finish_reason"):
                seen.choice_ended(choice.get("index"))
    seen.add_text(result.output)
