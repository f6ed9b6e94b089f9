"""ElevenLabs: speech by characters or by the credits that the response states, transcription by the second."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import msgspec

from farebox.providers.audio.length import audio_length, bare_length
from farebox.providers.formats import bodies, multipart
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, ResponseReader
from farebox.providers.formats.by_unit import (
    READING,
    StatedReader,
    decode_once,
    figure,
    is_on,
    model_with,
    remote_audio_demand,
    speech_demand,
    transcription_demand,
)
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.readers import BodyReader, Seen
from farebox.providers.formats.stated import exact_number

_CREDITS: Final = "character-cost"
_DEFAULT_SPEECH: Final = "eleven_multilingual_v2"
_EXTRAS: Final = ("detect_speaker_roles", "entity_detection", "entity_redaction", "keyterms", "transcript_edit")
"""Options that are billed in addition, as a fraction of the price per second."""
_CHANNELS_MAX: Final = 5
"""Most channels of a recording; each is billed for the full length."""
_EDIT_SECONDS_MIN: Final = 10
"""Minimum of billed seconds with `transcript_edit`."""
_KEYTERMS_SECONDS_MIN: Final = 20
"""The same for more than `_KEYTERMS` key terms."""
_KEYTERMS: Final = 100
_ELSEWHERE: Final = ("cloud_storage_url", "source_url")
_REMOTE_SECONDS: Final = 10 * 3600
"""Seconds held for a recording given by URL, for all channels together: the longest that is transcribed
(elevenlabs.io/docs)."""
_BARE_RATE: Final = 16_000
_LOST_FIELDS: Final = (
    "If you have set it: elevenlabs for Python (2.78) loses it when it repeats a request that was refused for a "
    "moment; with request_options={'max_retries': 0} it raises instead."
)


class _Speech(msgspec.Struct):
    text: str
    model_id: bodies.Name | None = None


class _Word(msgspec.Struct):
    channel_index: Any = None


class _Transcript(msgspec.Struct):
    audio_duration_secs: Any = None
    words: list[_Word] | None = None


class _ResponseTranscripts(_Transcript):
    """A transcript: of one channel, of several channels in one, or one for each channel."""

    transcripts: list[_Transcript] | None = None


_SPEECH: Final = msgspec.json.Decoder(_Speech)
_RESPONSE: Final = ResponseDecoder[_ResponseTranscripts](_ResponseTranscripts, float_hook=exact_number)


@dataclass(frozen=True, slots=True)
class ElevenLabsSpeech(bodies.JsonBody):
    """`v1/text-to-speech/{voice}`, its streams and its forms with timestamps. A header states the credits."""

    name: str = "elevenlabs_speech"
    usage_headers: tuple[str, ...] = (_CREDITS,)

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        head = decode_once(_SPEECH, body)
        model = head.model_id or _DEFAULT_SPEECH
        streams = path.endswith(("/stream", "/stream/with-timestamps"))
        return ParsedRequest(model, streams, speech_demand(model, head.text, credits=True))

    def replace_model(self, body: bytes, model: str) -> bytes:
        """Set `model_id`."""
        return bodies.changed(body, model_id=model)

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        fixed, stated = parsed.demand.fixed, figure(parsed.stated.get(_CREDITS))
        billed = fixed["input_characters"] if stated is None else stated
        return StatedReader({**fixed, "billed_units": billed}, events=streaming)


@dataclass(frozen=True, slots=True)
class ElevenLabsTranscript(bodies.JsonBody):
    """`v1/speech-to-text`: a form with a recording, or the URL of one."""

    name: str = "elevenlabs_transcript"

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. Raises InvalidRequest."""
        fields = multipart.parts(content_type, body)
        named = multipart.value(fields, body, "model_id")
        if not named or len(named) > 256:
            raise InvalidRequest(f"The form lacks the field `model_id`. {_LOST_FIELDS}")
        given = [part.name for part in fields if is_on(body[part.start : part.end][:64].decode("utf-8", "replace"))]
        model = model_with(named, [name for name in _EXTRAS if name in given])
        channels = _CHANNELS_MAX if "use_multi_channel" in given else 1
        files = [body[part.start : part.end] for part in fields if part.is_file]
        if files:
            bare = multipart.value(fields, body, "file_format") == "pcm_s16le_16"
            lengths = [bare_length(len(file), _BARE_RATE) if bare else audio_length(file) for file in files]
            demand = transcription_demand(model, lengths, channels=channels, least=_least(given))
        elif not any(name in given for name in _ELSEWHERE):
            raise InvalidRequest("The form has no recording: add the field `file`, or `cloud_storage_url`.")
        else:
            demand = remote_audio_demand(model, _REMOTE_SECONDS)
        unmetered = "the transcript, and how long the audio was, would go to a webhook" if "webhook" in given else None
        return ParsedRequest(model, False, demand, unmetered=unmetered, response_form=str(_least(given)))

    def replace_model(self, body: bytes, model: str) -> bytes:
        """Set the field `model_id`."""
        return multipart.replaced(body, "model_id", model)

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response."""
        least = int(parsed.response_form)

        def parse_body(seen: Seen, body: bytes) -> None:
            response = _RESPONSE.decode(body)
            seen.complete = True
            if response.transcripts:
                seconds = sum(_seconds(one, least) for one in response.transcripts)
            else:
                seconds = _seconds(response, least) * _channels(response)
            seen.update({"audio_seconds": seconds or None})

        return BodyReader(parse_body, READING)


def _least(given: list[str]) -> int:
    """The minimum of billed seconds with these options."""
    if given.count("keyterms") > _KEYTERMS:
        return _KEYTERMS_SECONDS_MIN
    return _EDIT_SECONDS_MIN if "transcript_edit" in given else 0


def _seconds(one: _Transcript, least: int) -> int | Decimal:
    """The billed seconds of one channel; none if the transcript states no duration."""
    seconds = one.audio_duration_secs
    if isinstance(seconds, Decimal) and not seconds.is_finite():
        return seconds  # not compared: it is rejected when the figures are read
    return max(seconds, least) if isinstance(seconds, int | Decimal) else 0


def _channels(one: _Transcript) -> int:
    """How many channels a transcript has words from."""
    indexes = (word.channel_index for word in one.words or () if type(word.channel_index) is int)
    return 1 + min(max(indexes, default=0), _CHANNELS_MAX - 1)
