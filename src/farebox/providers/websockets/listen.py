"""Deepgram's transcription of live audio (`v1/listen`), for samples whose rate is in the URL.

Audio is billed by the second. It is held for in steps before it is passed on, and charged step by step; the provider's
last message states the total duration.
"""

import math
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final

import msgspec

from farebox.pricing.model import Demand
from farebox.providers.formats import duplicate_fields
from farebox.providers.formats.base import InvalidRequest, Observed, ParsedRequest
from farebox.providers.formats.stated import exact_number
from farebox.providers.websockets.reader import BySent, FromClient, FromProvider, Lane, TurnRequest
from farebox.providers.websockets.sizes import seconds_ahead
from farebox.quoting import quoted

WIDTHS: Final[Mapping[str, int]] = MappingProxyType({"linear16": 2, "linear32": 4, "mulaw": 1, "alaw": 1})
"""Bytes of a sample, by `encoding`."""
_CONTROL: Final = frozenset({"KeepAlive", "Finalize", "CloseStream"})
_SECONDS_MAX: Final = 10**7
"""No session is longer; a larger figure is not trusted."""
_ANSWER: Final = msgspec.json.Decoder(dict[str, Any], float_hook=exact_number)


class ListenReader(BySent):
    """Reads one session."""

    def __init__(self, model: str, bytes_per_second: int) -> None:
        self._model = model
        self._rate = bytes_per_second
        self._bytes = self._before = 0
        """Bytes of audio sent; the same without the last message."""
        self._charged = Decimal(0)
        """Seconds charged."""
        self._number = 0

    @property
    def _sent(self) -> Decimal:
        """Seconds sent."""
        return Decimal(self._bytes) / self._rate

    @property
    def _left(self) -> Decimal:
        """Seconds that have been sent and not charged."""
        return max(Decimal(0), self._sent - self._charged)

    @property
    def owed(self) -> TurnRequest | None:
        """The audio that has been sent and not charged."""
        return self._ask(math.ceil(self._left)) if self._left else None

    def client(self, data: bytes, *, text: bool = True) -> FromClient:
        """Read a message from the client: audio, or JSON as text. Raises InvalidRequest."""
        if not text:
            self._before = self._bytes
            self._bytes += len(data)
            return FromClient(data, self._asks())
        try:
            kind = _ANSWER.decode(data).get("type")
        except (ValueError, RecursionError) as broken:
            raise InvalidRequest(f"The message is not JSON: {broken}.") from broken
        duplicate_fields.check(data, refers=True)
        known = isinstance(kind, str) and kind in _CONTROL
        return FromClient(data, refused="" if known else f"the message {quoted(str(kind))}")

    def provider(self, data: bytes) -> FromProvider:
        """Read a message from the provider. One that cannot be read is ignored."""
        try:
            message = _ANSWER.decode(data)
        except (ValueError, RecursionError):
            return FromProvider()
        if message.get("type") == "Metadata":
            stated = _seconds(message, "duration")
            return self._heard(self._sent if stated is None else stated)
        return FromProvider()

    def _heard(self, total: Decimal) -> FromProvider:
        """The provider bills `total` seconds for everything sent: after this turn, nothing is left to charge."""
        new, self._charged = total - self._charged, max(total, self._charged, self._sent)
        if new <= 0:
            return FromProvider()
        self._number += 1
        return FromProvider(ended=(("response", f"{self._number}", _usage(new, complete=True)),))

    def _asks(self) -> tuple[TurnRequest, ...]:
        """Requests a hold for what was sent and not charged."""
        return (self._ask(seconds_ahead(float(self._left))),) if self._left else ()

    def _ask(self, seconds: int) -> TurnRequest:
        # Only the charged quantities matter here: `audio_seconds` is what a response without usage would be charged.
        demand = Demand(self._model, no_output=True, audio_seconds_max=seconds, units=("audio_seconds",))
        return TurnRequest("response", ParsedRequest(self._model, False, demand), by_itself=True)

    def take(self) -> Observed | None:
        """What was sent before the last message."""
        total = Decimal(self._before) / self._rate
        new, self._charged = total - self._charged, max(total, self._charged)
        return _usage(new, complete=True) if new > 0 else None

    def unrequested(self, lane: Lane) -> TurnRequest | None:
        """What was sent and not charged."""
        return next(iter(self._asks()), None)

    def usage_so_far(self, lane: Lane, turn_id: str) -> Observed:
        """What was sent and not charged."""
        return _usage(self._left)


def _seconds(message: dict[str, Any], name: str) -> Decimal | None:
    value = message.get(name)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    seconds = Decimal(value)
    return seconds if seconds.is_finite() and 0 <= seconds <= _SECONDS_MAX else None


def _usage(seconds: Decimal, *, complete: bool = False) -> Observed:
    return Observed(usage={"audio_seconds": seconds, "input_audio_seconds": seconds}, complete=complete)
