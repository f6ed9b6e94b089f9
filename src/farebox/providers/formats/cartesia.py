"""Cartesia: speech by the characters of its transcript, transcription by the second."""

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from farebox.providers.audio.length import AudioLength, audio_length, bare_length
from farebox.providers.formats import bodies, multipart
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, ResponseReader
from farebox.providers.formats.by_unit import (
    READING,
    StatedReader,
    decode_once,
    only,
    query_of,
    speech_demand,
    transcription_demand,
)
from farebox.providers.formats.event_reader import EventReader
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.readers import BodyReader, Seen

_SAMPLES: Final = {"pcm_s16le": 2, "pcm_s32le": 4, "pcm_f16le": 2, "pcm_f32le": 4, "pcm_mulaw": 1, "pcm_alaw": 1}
"""Bytes per sample of headerless audio, by encoding."""
_EVENT_BYTES_PER_SECOND: Final = 48_000
"""Rate of audio in events, which is counted only if a stream is cut."""


class _SpeechHead(msgspec.Struct):
    model_id: bodies.Name
    transcript: str


class _ResponseTranscript(msgspec.Struct):
    """A transcript, or one event of a stream."""

    type: Any = None
    data: Any = None
    duration: Any = None
    text: Any = None
    error: Any = None


_SPEECH_HEAD: Final = msgspec.json.Decoder(_SpeechHead)
_RESPONSE: Final = ResponseDecoder[_ResponseTranscript](_ResponseTranscript)


@dataclass(frozen=True, slots=True)
class CartesiaSpeech(bodies.JsonBody):
    """`tts/bytes`, and `tts/sse` as events."""

    name: str = "cartesia_speech"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        head = decode_once(_SPEECH_HEAD, body)
        return ParsedRequest(head.model_id, True, speech_demand(head.model_id, head.transcript))

    def replace_model(self, body: bytes, model: str) -> bytes:
        """Set `model_id`."""
        return bodies.changed(body, model_id=model)

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        usage = dict(parsed.demand.fixed)
        if not streaming:
            return StatedReader(usage)

        def parse_event(seen: Seen, data: bytes) -> bool:
            event = _RESPONSE.decode(data)
            if event.type == "error" or event.error:
                seen.end(failed=True)
                return True
            seen.update(usage)
            seen.add_audio(event.data, _EVENT_BYTES_PER_SECOND)
            if event.type == "done":
                seen.end()
            return True

        return EventReader(parse_event, READING)


@dataclass(frozen=True, slots=True)
class CartesiaTranscript(bodies.JsonBody):
    """`stt`: a form with a recording."""

    name: str = "cartesia_transcript"
    reads_query: bool = True

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        query = query_of(path)
        fields = multipart.parts(content_type, body)
        model = multipart.value(fields, body, "model")
        if not model or len(model) > 256:
            raise InvalidRequest("The form lacks the field `model`.")
        encoding = only(query, "encoding") or multipart.value(fields, body, "encoding") or ""
        rate = only(query, "sample_rate") or multipart.value(fields, body, "sample_rate") or ""
        files = [body[part.start : part.end] for part in fields if part.is_file]
        return ParsedRequest(
            model, False, transcription_demand(model, [_length(file, encoding, rate) for file in files])
        )

    def replace_model(self, body: bytes, model: str) -> bytes:
        """Set the field `model`."""
        return multipart.replaced(body, "model", model)

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        return BodyReader(_parse_transcript, READING)


def _length(file: bytes, encoding: str, rate: str) -> AudioLength:
    """Raises InvalidRequest."""
    if encoding not in _SAMPLES:
        return audio_length(file)
    if not (rate.isascii() and rate.isdigit() and 1_000 <= int(rate[:6]) <= 192_000):
        raise InvalidRequest("Samples without a header need a `sample_rate`.")
    return bare_length(len(file) * 2 // _SAMPLES[encoding], int(rate[:6]))


def _parse_transcript(seen: Seen, body: bytes) -> None:
    response = _RESPONSE.decode(body)
    seen.complete = True
    seen.update({"audio_seconds": response.duration})
    seen.add_text(response.text)
    seen.failed = bool(response.error)
