"""Deepgram: transcription by the second of each channel, speech by the character."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import msgspec

from farebox.providers.audio.length import audio_length, bare_length
from farebox.providers.formats import bodies
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, ResponseReader
from farebox.providers.formats.by_unit import (
    READING,
    StatedReader,
    figure,
    is_on,
    model_with,
    only,
    query_of,
    remote_audio_demand,
    speech_demand,
    transcription_demand,
)
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.readers import BodyReader, Seen
from farebox.providers.formats.stated import exact_number

_EXTRAS: Final = ("detect_entities", "diarize", "diarize_model", "keyterm", "redact")
"""Options that are billed in addition, by the second."""
_BY_TOKENS: Final = ("detect_topics", "intents", "sentiment", "summarize", "topics")
"""Options that are billed in addition by the tokens of their own models; the first is an older name of the last."""
_CHANNELS_MAX: Final = 20
_REMOTE_SECONDS: Final = 12 * 3600
"""Seconds held for a recording given by URL, for all channels together: Deepgram limits only the size, to two
gigabytes."""
_DEFAULT_LISTEN: Final = "base"
_DEFAULT_SPEAK: Final = "aura-asteria-en"
_CHARACTERS: Final = "dg-char-count"
_JSON: Final = ("application/json", "text/json")


class _Speech(msgspec.Struct):
    text: str


class _Metadata(msgspec.Struct):
    duration: Any = None
    channels: Any = None


class _ResponseMetadata(msgspec.Struct):
    metadata: _Metadata | None = None
    err_code: Any = None


_SPEECH: Final = msgspec.json.Decoder(_Speech)
_RESPONSE: Final = ResponseDecoder[_ResponseMetadata](_ResponseMetadata, float_hook=exact_number)


@dataclass(frozen=True, slots=True)
class DeepgramListen(bodies.JsonBody):
    """`v1/listen`: the body is a recording, or the URL of one; the query says everything else."""

    name: str = "deepgram_listen"
    reads_query: bool = True

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        query = query_of(path)
        tier = only(query, "tier")
        named = only(query, "model") or _DEFAULT_LISTEN
        extras = [name for name in _EXTRAS if any(map(is_on, query.get(name, ())))]
        if only(query, "language").lower() == "multi":
            extras.append("multi")
        model = model_with(f"{tier}-{named}" if tier else named, extras)
        several = is_on(only(query, "multichannel"))
        # No recording begins like a JSON object, whatever its declared type.
        if content_type.partition(";")[0].strip().lower() in _JSON or body[:64].lstrip().startswith(b"{"):
            demand = remote_audio_demand(model, _REMOTE_SECONDS)
        else:
            encoding, rate = only(query, "encoding"), only(query, "sample_rate")
            bare = encoding == "linear16" and rate.isascii() and rate.isdigit() and int(rate[:6]) > 0
            length = bare_length(len(body), int(rate[:6])) if bare else audio_length(body)
            demand = transcription_demand(model, [length], channels=_CHANNELS_MAX if several else 1)
        by_tokens = [name for name in _BY_TOKENS if is_on(only(query, name))]
        unmetered = f"`{by_tokens[0]}` is billed by tokens, apart from the audio" if by_tokens else None
        if "callback" in query:
            unmetered = "the transcript, and how long the audio was, would go to the callback"
        form = "channels" if several else ""
        return ParsedRequest(model, False, demand, unmetered=unmetered, response_form=form)

    def replace_model(self, body: bytes, model: str) -> bytes:
        """The query names the model; the body stays."""
        return body

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""

        def parse_body(seen: Seen, body: bytes) -> None:
            response = _RESPONSE.decode(body)
            seen.complete = True
            seen.failed = response.err_code is not None
            if response.metadata is not None:
                each = parsed.response_form == "channels"
                seen.update({"audio_seconds": _seconds(response.metadata, each_channel=each)})

        return BodyReader(parse_body, READING)


def _seconds(metadata: _Metadata, *, each_channel: bool) -> Any:
    """The billed seconds. Values that are not numbers are rejected when the figures are read."""
    duration, channels = metadata.duration, metadata.channels
    if each_channel and isinstance(duration, int | Decimal) and type(channels) is int and channels > 1:
        return duration * channels
    return duration


@dataclass(frozen=True, slots=True)
class DeepgramSpeak(bodies.JsonBody):
    """`v1/speak`: the voice is the model. The response states the characters in a header."""

    name: str = "deepgram_speak"
    reads_query: bool = True
    usage_headers: tuple[str, ...] = (_CHARACTERS,)

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        query = query_of(path)
        model, head = only(query, "model") or _DEFAULT_SPEAK, bodies.decode(_SPEECH, body)
        if len(model) > 256:
            raise InvalidRequest("The query's `model` is longer than 256 characters.")
        unmetered = "the audio would go to the callback" if "callback" in query else None
        return ParsedRequest(model, True, speech_demand(model, head.text), unmetered=unmetered)

    def replace_model(self, body: bytes, model: str) -> bytes:
        """The query names the model; the body stays."""
        return body

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        return StatedReader({**parsed.demand.fixed, **_stated(parsed)}, events=streaming)


def _stated(parsed: ParsedRequest) -> dict[str, int | Decimal]:
    stated = figure(parsed.stated.get(_CHARACTERS))
    return {} if stated is None else {"input_characters": stated}
