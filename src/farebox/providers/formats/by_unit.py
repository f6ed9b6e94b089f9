"""What formats share whose prices are not per token, but per character, second, image, run or credit.

Of all units that a request or its response states, only those that the model's price names are charged.
"""

import math
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Final, TypeVar
from urllib.parse import parse_qs

import msgspec
from msgspec.structs import replace

from farebox.pricing.model import Demand
from farebox.providers.audio.length import AudioLength
from farebox.providers.formats import bodies, duplicate_fields
from farebox.providers.formats.base import InvalidRequest, Observed
from farebox.providers.formats.meters import Reading
from farebox.providers.formats.readers import Seen, observed

_Head = TypeVar("_Head")
READING: Final = Reading(
    *(
        (meter, meter)
        for meter in (
            "input_tokens",
            "output_tokens",
            "input_characters",
            "audio_seconds",
            "output_audio_seconds",
            "output_video_seconds",
            "output_images",
            "output_pixels",
            "output_steps",
            "compute_seconds",
            "runs",
            "billed_units",
        )
    ),
    ("input_audio_seconds", "audio_seconds"),
)
"""The reading of usage that is already in meters."""
_CHARACTERS_MAX: Final = 64
"""Most characters of a figure in a header."""


def decode_once(decoder: "msgspec.json.Decoder[_Head]", body: bytes) -> _Head:
    """Like `bodies.decode`, but also raises InvalidRequest if any field occurs twice: either may be the one that the
    provider bills."""
    duplicate_fields.check(body, refers=True)
    return bodies.decode(decoder, body)


def model_with(model: str, extras: Iterable[str]) -> str:
    """The name by which a model is priced with options that cost more: `nova-3+diarize+redact`."""
    return "+".join((model, *sorted(extras)))


def query_of(target: str) -> dict[str, list[str]]:
    """The parameters of a path with its query, by name."""
    return parse_qs(target.partition("?")[2])


def only(query: Mapping[str, list[str]], name: str) -> str:
    """The value of a parameter; empty if it is not given. Raises InvalidRequest if it is given twice: the provider
    might use the other one."""
    values = query.get(name, [])
    if len(values) > 1:
        raise InvalidRequest(f"The query gives `{name}` more than once.")
    return values[0] if values else ""


def is_on(text: str | None) -> bool:
    """Whether the text of an option switches something on. ElevenLabs' SDK sends `null` for an option that was not
    requested."""
    return (text or "").strip().lower() not in ("", "false", "0", "no", "none", "null", "[]")


def speech_demand(model: str, text: str, *, credits: bool = False) -> Demand:
    """The demand of speaking a text; with `credits`, the response states its cost in the provider's own units."""
    own = ("billed_units",) if credits else ()
    units = ("input_characters", *own)
    return Demand(model, no_output=True, fixed={"input_characters": len(text)}, units=units, unbounded=own)


def transcription_demand(model: str, lengths: Iterable[AudioLength], *, channels: int = 1, least: int = 0) -> Demand:
    """The demand of transcribing audio of these lengths, each with at most `channels` channels. `least`: the minimum of
    billed seconds."""
    found = list(lengths)
    return Demand(
        model,
        no_output=True,
        audio_seconds=max(least, math.ceil(sum(length.seconds for length in found))),
        audio_seconds_max=max(least, math.ceil(sum(length.most for length in found))) * channels,
        units=("audio_seconds",),
    )


def remote_audio_demand(model: str, seconds: int) -> Demand:
    """The same for audio that only the provider sees, and that is at most `seconds` long."""
    return Demand(model, no_output=True, audio_seconds_max=seconds, units=("audio_seconds",))


def figure(text: str | None) -> int | Decimal | None:
    """The number in a header; None if it is not a number. It may be an impossible one."""
    if not text or len(text) > _CHARACTERS_MAX:
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    sized = number.is_finite() and number.adjusted() < _CHARACTERS_MAX
    return int(number) if sized and number == number.to_integral_value() else number


class StatedReader:
    """Relays a response that need not be read, because the request or the response's headers state the usage. The last
    byte is held back until the charge is durable."""

    finished = holding = all_ended = False
    input_reported = True
    kept_bytes = 0

    def __init__(self, usage: Mapping[str, int | Decimal | None], *, events: bool = False) -> None:
        self.events = events
        self._usage = {meter: number for meter, number in usage.items() if number is not None}
        self._size = 0
        self._last = b""

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes, and return all but the last."""
        if not chunk:
            return b""
        self._size += len(chunk)
        passed, self._last = self._last + chunk[:-1], chunk[-1:]
        return passed

    def stop_collecting(self) -> None:
        """Does nothing, because nothing is kept."""

    def release(self) -> bytes:
        return b""

    def close(self) -> tuple[bytes, Observed]:
        seen = Seen(complete=True)
        if self._size:
            seen.update(self._usage)
        found = observed(seen, READING, whole=True, empty=not self._size)
        return self._last, replace(found, delivered_bytes=self._size)
