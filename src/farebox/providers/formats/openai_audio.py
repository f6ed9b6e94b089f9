"""OpenAI's audio: speech from text, and text from speech."""

import math
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec

from farebox.pricing.model import Demand
from farebox.providers.audio.length import audio_length
from farebox.providers.formats import bodies, multipart
from farebox.providers.formats.base import AnswerReader, InvalidRequest, ParsedRequest
from farebox.providers.formats.event_reader import EventReader
from farebox.providers.formats.lenient import Answers
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

_TOKENS_PER_CHARACTER: Final = 4
"""Of generated speech, generously: about 20 tokens a second, and nobody takes a fifth of a second for a character."""


class _SpeechHead(msgspec.Struct):
    model: bodies.Name
    input: str
    instructions: str | None = None
    stream_format: str | None = None


class _Answer(msgspec.Struct):
    """A transcript, or one event of a stream."""

    type: Any = None
    delta: Any = None
    text: Any = None
    usage: Any = None
    duration: Any = None
    model: Any = None
    error: Any = None


_SPEECH_HEAD: Final = msgspec.json.Decoder(_SpeechHead)
_ANSWER: Final = Answers[_Answer](_Answer)


@dataclass(frozen=True, slots=True)
class OpenAISpeech(bodies.JsonBody):
    """`audio/speech`. The answer is sound and tells nothing: models billed by the character are metered by the request,
    models billed by tokens only where the client asked for events (`stream_format: sse`)."""

    name: str = "openai_speech"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        head = bodies.decode(_SPEECH_HEAD, body)
        tokens = _TOKENS_PER_CHARACTER * len(head.input)
        demand = Demand(
            model=head.model,
            text_bytes=len(body),
            text=f"{head.input}\n{head.instructions or ''}" if exact else "",
            messages=1,
            no_output=True,
            fixed={"input_characters": len(head.input), "output_tokens": tokens, "output_audio_tokens": tokens},
        )
        return ParsedRequest(head.model, head.stream_format == "sse", demand)

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> AnswerReader:
        """A reader for the answer."""
        if streaming:
            return EventReader(_take_event, SPEECH)
        by_tokens = parsed.model.rpartition("/")[2].startswith("gpt-")
        usage: dict[str, object] = {"input_characters": parsed.demand.fixed["input_characters"]}
        return BodyReader(_take_sound, SPEECH, Seen(usage=None if by_tokens else usage))


@dataclass(frozen=True, slots=True)
class OpenAITranscript(bodies.JsonBody):
    """`audio/transcriptions` and `audio/translations`. Answers in `text`, `srt` or `vtt` tell no usage."""

    name: str = "openai_transcript"
    remote_seconds: int = 0
    """How long audio can play that the request names by URL or file id, as the provider limits it; 0 where a request
    is not metered that names some."""

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
            audio_bytes=size,
            audio_seconds=seconds,
            audio_seconds_max=math.ceil(sum(length.most for length in lengths)) if files else self.remote_seconds,
            fixed={"audio_seconds": seconds, "input_audio_seconds": seconds} if files else {},
        )
        stream = multipart.value(fields, body, "stream") == "true"
        unmetered = (
            None if files or self.remote_seconds else "how long audio plays that is not in the form is not known"
        )
        return ParsedRequest(model, stream, demand, unmetered=unmetered)

    def replace_model(self, body: bytes, model: str) -> bytes:
        """Set the field `model`."""
        return multipart.replaced(body, "model", model)

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> AnswerReader:
        """A reader for the answer."""
        return (
            EventReader(_take_event, TRANSCRIPT) if streaming else BodyReader(_take_transcript, TRANSCRIPT, plain=True)
        )


def _take_event(seen: Seen, data: bytes) -> bool:
    event = _ANSWER.decode(data)
    if event.type == "transcript.text.delta":
        seen.say(event.delta)
    elif event.type in ("transcript.text.done", "speech.audio.done"):
        seen.update(event.usage, event.model)
        seen.end()
    elif event.type == "error" or event.error:
        seen.end(failed=True)
    return True


def _take_sound(seen: Seen, body: bytes) -> None:
    seen.complete = bool(body)


def _take_transcript(seen: Seen, body: bytes) -> None:
    if not body.lstrip().startswith(b"{"):
        seen.complete = bool(body)
        return  # plain text or subtitles
    answer = _ANSWER.decode(body)
    seen.complete = True
    seen.update(answer.usage, answer.model)
    if seen.usage is None and answer.duration is not None:
        seen.update({"seconds": _seconds(answer.duration)})
    seen.say(answer.text)
    seen.failed = bool(answer.error)


def _seconds(duration: object) -> Decimal | None:
    """The `duration` of a verbose transcript: a number, or (older Whisper) a number in a string."""
    try:
        seconds = Decimal(str(duration))
    except InvalidOperation:
        return None
    return seconds if seconds.is_finite() else None
