"""Speech from text as it arrives: the WebSockets of Deepgram, ElevenLabs and Cartesia.

Text is billed by the character. It is held for in steps before it is passed on. Everything that has been sent is
charged once the provider says that text has been spoken, or once much text has been sent and audio arrives; always
everything, because a remaining part would need another hold, which might be refused. Text that has been sent and not
charged is charged when the session ends.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import msgspec

from farebox.pricing.model import Demand
from farebox.providers.formats import duplicate_fields
from farebox.providers.formats.base import InvalidRequest, Observed, ParsedRequest
from farebox.providers.websockets.reader import BySent, FromClient, FromProvider, Lane, TurnRequest
from farebox.quoting import quoted

STEP: Final = 500
"""Characters; text is held for in such steps."""
PART: Final = 250
"""This many characters are charged with the next audio, whether or not everything sent has been spoken."""
_METER: Final = "input_characters"


class SpeechRefused(Exception):
    """The operator's key is not used for this; the message says for what."""


@dataclass(frozen=True, slots=True)
class SpeechText:
    """What a message from the client makes the provider speak."""

    text: str = ""
    model: str = ""
    """The model, if the message names it."""
    flushes: bool = False
    """Whether the provider will say when everything sent so far has been spoken."""
    cancels: bool = False
    """Whether the provider may no longer confirm text that was sent before."""


@dataclass(frozen=True, slots=True)
class SpeechForm:
    """One provider's messages."""

    query: frozenset[str]
    """The parameters that the URL's query may have on the operator's key."""
    model: str
    """The query parameter that names the model; empty if messages do."""
    read: Callable[[dict[str, Any]], SpeechText]
    """Reads a client's message. Raises SpeechRefused."""
    ended: Callable[[dict[str, Any]], bool]
    """Whether a message from the provider says that the flushed text has been spoken."""
    default: str = ""
    """The model if the URL names none; empty: it must name one."""


class SpeechReader(BySent):
    """Reads one session."""

    def __init__(self, form: SpeechForm, model: str) -> None:
        self._form = form
        self._model = model
        self._sent = self._before = 0
        """Characters sent; the same without the last message."""
        self._charged = 0
        self._messages = self._since_flush = 0
        """Number of client messages since everything sent was last confirmed; number of those after the last flush."""
        self._flushes = 0
        """Number of flushes that the provider has not confirmed."""
        self._sounds = False
        """Whether audio has arrived since everything sent was last confirmed."""
        self._number = 0

    @property
    def owed(self) -> TurnRequest | None:
        """The text that has been sent and not charged."""
        left = self._sent - self._charged
        return self._ask(left) if left else None

    def client(self, data: bytes, *, text: bool = True) -> FromClient:
        """Read a message from the client. Raises InvalidRequest."""
        try:
            message = self._form.read(_object(data))
        except SpeechRefused as refused:
            return FromClient(data, refused=str(refused))
        if message.model and self._model not in ("", message.model) and self._sent > self._charged:
            return FromClient(data, refused="another model before all that was sent has been spoken")
        self._model = message.model or self._model
        self._messages += 1
        self._before = self._sent
        self._sent += len(message.text)
        self._flushes = message.flushes + (0 if message.cancels else self._flushes)
        self._since_flush = 0 if message.flushes else self._since_flush + 1
        return FromClient(data, self._asks())

    def provider(self, data: bytes) -> FromProvider:
        """Read a message from the provider: audio, or JSON."""
        try:
            message = msgspec.json.decode(data)
        except (ValueError, RecursionError):
            message = None
        sounds = message is None or (isinstance(message, dict) and bool(message.get("audio") or message.get("data")))
        self._sounds = self._sounds or sounds
        failed = isinstance(message, dict) and message.get("type") == "error"
        if failed or (isinstance(message, dict) and self._form.ended(message)):
            # Which of several messages an error refers to is unknown, so text becomes free only if there was just one.
            free = failed and not self._sounds and self._messages == 1
            self._confirm()
            return self._spoken(Observed(empty=True, complete=True) if free else None)
        return self._spoken() if sounds and self._sent - self._charged >= PART else FromProvider()

    def _confirm(self) -> None:
        """Note that the provider has completed the first flush."""
        self._flushes = max(0, self._flushes - 1)
        if not self._flushes and not self._since_flush:
            self._messages, self._sounds = 0, False

    def _spoken(self, nothing: Observed | None = None) -> FromProvider:
        """Charge for everything that was sent and not charged; with `nothing`, it is free."""
        new, self._charged = self._sent - self._charged, self._sent
        if not new:
            return FromProvider()
        self._number += 1
        observed = nothing or Observed(usage={_METER: new}, complete=True)
        return FromProvider(ended=(("response", f"{self._number}", observed),))

    def _asks(self) -> tuple[TurnRequest, ...]:
        """Requests a hold for what was sent and not charged."""
        left = self._sent - self._charged
        return (self._ask(math.ceil(left / STEP) * STEP),) if left else ()

    def _ask(self, most: int) -> TurnRequest:
        demand = Demand(self._model, no_output=True, allowed={_METER: most}, units=(_METER,))
        return TurnRequest("response", ParsedRequest(self._model, False, demand), by_itself=True)

    def take(self) -> Observed | None:
        """What was sent before the last message."""
        new = self._before - self._charged
        if new <= 0:
            return None
        self._charged = self._before
        return Observed(usage={_METER: new}, complete=True)

    def unrequested(self, lane: Lane) -> TurnRequest | None:
        """What was sent and not charged."""
        return next(iter(self._asks()), None)

    def usage_so_far(self, lane: Lane, turn_id: str) -> Observed:
        """What was sent and not charged."""
        return Observed(usage={_METER: self._sent - self._charged})


def _object(data: bytes) -> dict[str, Any]:
    """Raises InvalidRequest."""
    try:
        found = msgspec.json.decode(data)
    except (ValueError, RecursionError) as broken:
        raise InvalidRequest(f"The message is not JSON: {broken}.") from broken
    if not isinstance(found, dict):
        raise InvalidRequest("The message is not an object.")
    duplicate_fields.check(data, refers=True)
    return found


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequest("The text is not a string.")
    return value


def _known(message: dict[str, Any], *names: str) -> None:
    for name in message:
        if name not in names:
            raise SpeechRefused(f"the field {quoted(name)}, whose cost is not known here")


def _deepgram(message: dict[str, Any]) -> SpeechText:
    _known(message, "type", "text")
    kind = message.get("type")
    if kind not in ("Speak", "Flush", "Clear", "Close"):
        raise SpeechRefused(f"the message {quoted(str(kind))}, which is not known here")
    # Cleared text has been sent, and may have been spoken.
    return SpeechText(_text(message.get("text")) if kind == "Speak" else "", flushes=kind in ("Flush", "Clear"))


def _elevenlabs(message: dict[str, Any]) -> SpeechText:
    _known(
        message,
        "flush",
        "generation_config",
        "pronunciation_dictionary_locators",
        "text",
        "try_trigger_generation",
        "voice_settings",
    )
    text = _text(message.get("text"))
    return SpeechText("" if text.isspace() else text, flushes=text == "")


def _cartesia(message: dict[str, Any]) -> SpeechText:
    if "cancel" in message:
        _known(message, "cancel", "context_id")
        if message["cancel"] is not True:
            raise SpeechRefused("a `cancel` other than `true`")
        return SpeechText(cancels=True)
    _known(
        message,
        "add_phoneme_timestamps",
        "add_timestamps",
        "context_id",
        "continue",
        "duration",
        "flush",
        "generation_config",
        "language",
        "locale",
        "max_buffer_delay_ms",
        "model_id",
        "normalization",
        "output_format",
        "pronunciation_dict_id",
        "speed",
        "transcript",
        "use_normalized_timestamps",
        "voice",
    )
    model = message.get("model_id")
    if not isinstance(model, str) or not 0 < len(model) <= 256:
        raise InvalidRequest("The message names no model: add `model_id`.")
    return SpeechText(_text(message.get("transcript")), model, flushes=not message.get("continue"))


FORMS: Final[Mapping[str, SpeechForm]] = MappingProxyType(
    {
        "deepgram": SpeechForm(
            frozenset({"bit_rate", "container", "encoding", "mip_opt_out", "model", "sample_rate", "speed"}),
            "model",
            _deepgram,
            lambda message: message.get("type") in ("Flushed", "Cleared"),
            "aura-asteria-en",
        ),
        "elevenlabs": SpeechForm(
            frozenset(
                {
                    "apply_text_normalization",
                    "auto_mode",
                    "enable_logging",
                    "enable_ssml_parsing",
                    "inactivity_timeout",
                    "language_code",
                    "model_id",
                    "optimize_streaming_latency",
                    "output_format",
                    "seed",
                    "sync_alignment",
                }
            ),
            "model_id",
            _elevenlabs,
            lambda message: bool(message.get("isFinal")),
        ),
        "cartesia": SpeechForm(
            frozenset({"cartesia_version"}),
            "",
            _cartesia,
            lambda message: message.get("type") == "done",
        ),
    }
)
"""The forms, by provider."""
