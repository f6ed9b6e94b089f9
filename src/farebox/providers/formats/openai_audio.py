"""OpenAI's audio: speech from text, and text from speech."""

import math
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec

from farebox.pricing.ceilings import family_name
from farebox.pricing.model import Demand
from farebox.providers.audio.length import audio_length, bare_length
from farebox.providers.formats import bodies, multipart
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, Reference, ResponseReader
from farebox.providers.formats.event_reader import EventReader
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.meters import Reading
from farebox.providers.formats.readers import BodyReader, Seen

SPEECH: Final = Reading(
    ("input_characters", "input_characters"),
    ("input_tokens", "input_tokens"),
    ("output_tokens", "output_tokens"),
)
TRANSCRIPT: Final = Reading(
    ("audio_seconds", "seconds", "prompt_audio_seconds"),
    ("input_audio_seconds", "seconds", "prompt_audio_seconds"),
    ("input_tokens", "input_tokens", "prompt_tokens"),
    ("input_text_tokens", "input_token_details.text_tokens"),
    ("input_audio_tokens", "input_token_details.audio_tokens", "prompt_tokens_details.audio_tokens"),
    ("output_tokens", "output_tokens", "completion_tokens"),
)

_TOKENS_PER_LETTER: Final = 4
"""Upper bound for generated speech: about 20 tokens a second, and a letter takes less than a fifth of a second."""
_TOKENS_PER_SIGN: Final = 16
"""The same for a digit, a symbol or an ideograph, which is spoken as a word or a syllable."""
_PAUSES: Final = 250
"""Tokens of silence before, between and after words."""
_LETTERS_END: Final = "\u2e80"
"""Characters from here on are not from an alphabet."""
_BYTES_PER_SECOND: Final = {"mp3": 16_000, "opus": 8_000, "aac": 8_000, "flac": 24_000}
"""Bytes per second of audio in events, which is counted only if a stream is cut; for raw samples and WAV 48,000."""
_SAMPLE_RATE: Final = 24_000
_SOUND_BYTES_MAX: Final = 64 * 1024 * 1024
"""23 minutes of samples."""
_UNREPORTED: Final = (
    "the duration of this kind of audio cannot be counted, and this response format does not state it: "
    'ask for "response_format": "verbose_json"'
)
_CUE: Final = re.compile(r"--> *(?:(\d+):)?(\d\d):(\d\d)[.,](\d{3})")


class _SpeechHead(msgspec.Struct):
    model: bodies.Name
    input: str
    instructions: str | None = None
    stream_format: str | None = None
    response_format: str | None = None
    voice: Any = None


class _Response(msgspec.Struct):
    """A transcript, or one event of a stream."""

    type: Any = None
    delta: Any = None
    audio: Any = None
    text: Any = None
    usage: Any = None
    duration: Any = None
    model: Any = None
    error: Any = None


_SPEECH_HEAD: Final = msgspec.json.Decoder(_SpeechHead)
_RESPONSE: Final = ResponseDecoder[_Response](_Response)


@dataclass(frozen=True, slots=True)
class OpenAISpeech(bodies.JsonBody):
    """`audio/speech`. The response is audio without usage, unless the client requested events (`stream_format: sse`):
    models billed by the character are metered by the request, others by the duration of the audio.
    """

    name: str = "openai_speech"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        head = bodies.decode(_SPEECH_HEAD, body)
        tokens = _speech_tokens_max(head.input)
        demand = Demand(
            model=head.model,
            text_bytes=len(body),
            text=f"{head.input}\n{head.instructions or ''}" if exact else "",
            messages=1,
            no_output=True,
            fixed={"input_characters": len(head.input)},
            allowed={"output_tokens": tokens, "output_audio_tokens": tokens},
        )
        form = head.response_format or "mp3"
        voice = head.voice.get("id") if isinstance(head.voice, dict) else None
        references = () if voice is None else (Reference("voice", str(voice)),)
        return ParsedRequest(head.model, head.stream_format == "sse", demand, response_form=form, references=references)

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        if streaming:
            rate = _BYTES_PER_SECOND.get(parsed.response_form, 2 * _SAMPLE_RATE)

            def parse_event(seen: Seen, data: bytes) -> bool:
                return _parse_event(seen, data, rate)

            return EventReader(parse_event, SPEECH)
        by_tokens = family_name(parsed.model).startswith("gpt-")

        def parse_audio(seen: Seen, body: bytes) -> None:
            seen.complete = True
            bare = parsed.response_form == "pcm"
            seen.sound_seconds = (bare_length(len(body), _SAMPLE_RATE) if bare else audio_length(body)).seconds
            if not by_tokens:
                seen.update({"input_characters": parsed.demand.fixed["input_characters"]})

        return BodyReader(parse_audio, SPEECH, raw_max=_SOUND_BYTES_MAX)


def _speech_tokens_max(text: str) -> int:
    """The most audio tokens that a spoken text can have."""
    letter_count = sum(character < _LETTERS_END and (character.isalpha() or character.isspace()) for character in text)
    return _PAUSES + _TOKENS_PER_LETTER * letter_count + _TOKENS_PER_SIGN * (len(text) - letter_count)


@dataclass(frozen=True, slots=True)
class OpenAITranscript(bodies.JsonBody):
    """`audio/transcriptions` and `audio/translations`. Responses in `text`, `srt` or `vtt` report no usage."""

    name: str = "openai_transcript"
    remote_seconds: int = 0
    """The provider's limit on the duration of audio given by URL or file ID; 0 if such a request is not metered."""
    reporting_formats: frozenset[str] = frozenset({"json", "verbose_json", "diarized_json", "srt", "vtt"})
    """Formats of the response that report the duration."""

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        fields = multipart.parts(content_type, body)
        model = multipart.value(fields, body, "model")
        if not model or len(model) > 256:
            raise InvalidRequest("The form lacks the field `model`.")
        files = [part for part in fields if part.is_file]
        size = sum(part.end - part.start for part in files)
        lengths = [audio_length(body[part.start : part.end]) for part in files]
        seconds = math.ceil(sum(length.seconds for length in lengths))
        demand = Demand(
            model=model,
            text_bytes=len(body) - size,
            text=(multipart.value(fields, body, "prompt") or "") if exact else "",
            audio_seconds=seconds,
            audio_seconds_max=math.ceil(sum(length.most for length in lengths)) if files else self.remote_seconds,
        )
        stream = multipart.value(fields, body, "stream") == "true"
        unmetered = None
        if not files and not self.remote_seconds:
            unmetered = "the duration of audio that is not in the form is unknown"
        elif not all(length.sure for length in lengths):
            form = multipart.value(fields, body, "response_format") or "json"
            unmetered = None if form in self.reporting_formats else _UNREPORTED
        return ParsedRequest(model, stream, demand, unmetered=unmetered)

    def replace_model(self, body: bytes, model: str) -> bytes:
        """Set the field `model`."""
        return multipart.replaced(body, "model", model)

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        return (
            EventReader(_parse_event, TRANSCRIPT)
            if streaming
            else BodyReader(_parse_transcript, TRANSCRIPT, blank=True)
        )


def _parse_event(seen: Seen, data: bytes, bytes_per_second: int = 2 * _SAMPLE_RATE) -> bool:
    event = _RESPONSE.decode(data)
    if event.type == "speech.audio.delta":
        seen.add_audio(event.audio, bytes_per_second)
    elif event.type == "transcript.text.delta":
        seen.add_text(event.delta)
    elif event.type in ("transcript.text.done", "speech.audio.done"):
        seen.update(event.usage, event.model)
        seen.end()
    elif event.type == "error" or event.error:
        seen.end(failed=True)
    return True


def _parse_transcript(seen: Seen, body: bytes) -> None:
    if not body.lstrip().startswith(b"{"):
        text = body.decode("utf-8", "replace")  # plain text or subtitles
        seen.complete = True
        seen.add_text(text)
        cues = _CUE.findall(text)
        if cues:
            hours, minutes, seconds, thousandths = (int(part or 0) for part in cues[-1])
            seen.input_audio_seconds = Decimal(f"{hours * 3600 + minutes * 60 + seconds}.{thousandths:03}")
        return
    response = _RESPONSE.decode(body)
    seen.complete = True
    seen.update(response.usage, response.model)
    if seen.usage is None and response.duration is not None:
        seen.update({"seconds": _seconds(response.duration)})
    seen.add_text(response.text)
    seen.failed = bool(response.error)


def _seconds(duration: object) -> Decimal | None:
    """The `duration` of a verbose transcript: a number, or (older Whisper) a number in a string."""
    try:
        seconds = Decimal(str(duration))
    except InvalidOperation:
        return None
    return seconds if seconds.is_finite() else None
