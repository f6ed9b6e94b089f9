"""OpenAI's Realtime API, in its current form and that of the beta: JSON events, one per message.

A response reads the whole conversation again. The most it can read is what the previous response read and wrote,
according to its usage, plus everything that has arrived since: every item and every second of audio passes through
here.
"""

import math
from decimal import Decimal
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from farebox.errors import NO_CREDIT, Problem
from farebox.pricing.model import Demand, ImageInput
from farebox.providers.formats import bodies
from farebox.providers.formats.base import InvalidRequest, Observed, ParsedRequest
from farebox.providers.formats.meters import Reading
from farebox.providers.formats.openai_audio import TRANSCRIPT
from farebox.providers.formats.references import may_refer, references_in
from farebox.providers.websockets.reader import ByTurns, FromClient, FromProvider, Lane, TurnRequest
from farebox.providers.websockets.realtime_settings import RealtimeSettings, limit_of, refused_of
from farebox.providers.websockets.sizes import Size, observed_of, seconds_ahead, text_ahead
from farebox.quoting import quoted

READING: Final = Reading(
    ("input_tokens", "input_tokens"),
    ("cache_read_tokens", "input_token_details.cached_tokens"),
    ("cache_audio_read_tokens", "input_token_details.cached_tokens_details.audio_tokens"),
    ("cache_image_read_tokens", "input_token_details.cached_tokens_details.image_tokens"),
    ("input_audio_tokens", "input_token_details.audio_tokens"),
    ("input_image_tokens", "input_token_details.image_tokens"),
    ("output_tokens", "output_tokens"),
    ("output_audio_tokens", "output_token_details.audio_tokens"),
    required=("input_tokens", "output_tokens"),
)

_TOKENS_PER_SECOND: Final = 10
"""Tokens of the user's audio; the model's has 20."""
_OVERHEAD_TOKENS: Final = 512
"""Tokens that the provider adds to a conversation by itself."""
_TEXT_MAX: Final = 2**20
_BYTES_PER_SECOND: Final = {True: 8_000, False: 48_000}
"""By whether G.711 was requested; PCM has 24,000 samples per second."""
_PASSED: Final = frozenset(
    {
        "conversation.item.create",
        "conversation.item.delete",
        "conversation.item.retrieve",
        "conversation.item.truncate",
        "input_audio_buffer.append",
        "input_audio_buffer.clear",
        "input_audio_buffer.commit",
        "output_audio_buffer.clear",
        "response.cancel",
        "response.create",
        "session.update",
        "transcription_session.update",
    }
)
"""Known client events, for which it is known what they may cost."""
_TEXT_DELTAS: Final = frozenset(
    {
        "response.output_text.delta",
        "response.text.delta",
        "response.output_audio_transcript.delta",
        "response.audio_transcript.delta",
        "response.function_call_arguments.delta",
    }
)
_SOUND_DELTAS: Final = frozenset({"response.output_audio.delta", "response.audio.delta"})
_TRANSCRIBED: Final = "conversation.item.input_audio_transcription."


class _Event(msgspec.Struct):
    """An event from the client or the provider."""

    type: str = ""
    event_id: Any = None
    session: Any = None
    item: msgspec.Raw = msgspec.Raw(b"")
    response: Any = None
    response_id: Any = None
    item_id: Any = None
    audio: msgspec.Raw = msgspec.Raw(b"")
    delta: Any = None
    usage: Any = None
    error: Any = None


_EVENT: Final = msgspec.json.Decoder(_Event)


class _Begun(msgspec.Struct):
    """A response in progress."""

    read: Size
    """What had arrived since the previous response when this one began."""
    aside: bool
    """Whether it is not part of the conversation."""
    text: list[str] = []
    text_bytes: int = 0
    sound: Decimal = Decimal(0)


class RealtimeReader(ByTurns):
    """Reads one session."""

    def __init__(self, model: str, *, transcribes: bool) -> None:
        """`transcribes`: the session only transcribes, and has no response model."""
        self._model = model
        self._settings = RealtimeSettings(model, transcribes=transcribes)
        self._known = Size()
        """What the last response read and wrote, as counted by the provider."""
        self._new = Size()
        """What has arrived since then."""
        self._buffer = 0.0
        """Seconds of audio that are not part of the conversation yet."""
        self._begun: dict[str, _Begun] = {}
        self._events = 0

    # --- the client ---

    def client(self, data: bytes, *, text: bool = True) -> FromClient:
        """Read a message from the client. Raises InvalidRequest."""
        event = bodies.decode(_EVENT, data)
        if event.type not in _PASSED:
            return FromClient(data, refused=f"the event {quoted(event.type)}, which is not known here")
        asks: tuple[TurnRequest, ...] = ()
        refused = ""
        if event.type == "input_audio_buffer.append":
            self._buffer += self._seconds(len(event.audio))
            asks = self._heard()
        elif event.type == "input_audio_buffer.commit":
            asks = self._transcript()
        elif event.type == "conversation.item.create":
            size = self._item(bytes(event.item))
            refused = _refers(msgspec.json.decode(event.item)) if may_refer(data) else ""
            self._new += Size() if refused else size
        elif event.type == "response.create":
            data, asks, refused = self._create(data, event)
        elif event.type.endswith("session.update"):
            refused = self._settings.note(event.session, asked=True)
        return FromClient(data, asks, refused)

    def _heard(self) -> tuple[TurnRequest, ...]:
        """What audio may cause without a further message."""
        answer = (TurnRequest("response", self._request(ahead=True), by_itself=True),) if self._settings.answers else ()
        return answer + self._transcript()

    def _transcript(self) -> tuple[TurnRequest, ...]:
        if not self._settings.transcriber:
            return ()
        seconds = seconds_ahead(self._buffer)
        demand = Demand(self._settings.transcriber, audio_seconds=seconds, audio_seconds_max=seconds, messages=1)
        return (TurnRequest("transcript", ParsedRequest(self._settings.transcriber, False, demand), by_itself=True),)

    def _create(self, data: bytes, event: _Event) -> tuple[bytes, tuple[TurnRequest, ...], str]:
        """Read a `response.create`."""
        asked: dict[str, Any] = event.response if isinstance(event.response, dict) else {}
        refused = refused_of(asked) or (_refers(asked) if may_refer(data) else "")
        event_id = event.event_id
        if not isinstance(event_id, str) or not event_id:
            self._events += 1
            event_id = f"event_fbx{self._events}"
            data = bodies.changed(data, event_id=event_id)
        more = Size(text=len(data), images=data.count(b'"input_image"')) + _audio_of(
            asked.get("input"), self._settings.g711
        )
        parsed = self._request(
            more, limit_of(asked.get("max_output_tokens"), self._settings.output_max), clampable=True
        )
        return data, (TurnRequest("response", parsed, event_id=event_id),), refused

    def limited(self, data: bytes, tokens: int) -> bytes:
        """`response.create` with its output limited."""
        found = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        response = msgspec.json.decode(found.get("response") or b"{}")
        response = response if isinstance(response, dict) else {}
        return bodies.changed(data, response={**response, "max_output_tokens": tokens})

    def _request(
        self, more: Size | None = None, output_max: int | None = None, *, ahead: bool = False, clampable: bool = False
    ) -> ParsedRequest:
        """A response that would begin now, as a request."""
        size = self._known + self._new + (more or Size())
        for begun in self._begun.values():
            size += Size(text=begun.text_bytes, audio=math.ceil(begun.sound * 20))
        heard = size.audio / _TOKENS_PER_SECOND + self._buffer
        seconds = seconds_ahead(heard) if ahead else math.ceil(heard)
        text = size.text + self._settings.text_bytes + _OVERHEAD_TOKENS
        demand = Demand(
            self._model,
            text_bytes=text_ahead(text) if ahead else text,
            messages=1,
            images=(ImageInput(),) * min(size.images, 1_000),
            audio_seconds=seconds,
            audio_seconds_max=seconds,
            output_max=output_max if clampable else self._settings.output_max,
            clampable=clampable,
        )
        return ParsedRequest(self._model, False, demand)

    def _item(self, item: bytes) -> Size:
        """An item that the client adds to the conversation."""
        try:
            found = msgspec.json.decode(item)
        except ValueError as broken:
            raise InvalidRequest(f"The item is not JSON: {broken}.") from broken
        sound = _audio_of([found], self._settings.g711)
        seen = item.count(b'"input_image"')
        # Pictures and audio are not counted as text as well.
        return Size(text=0 if seen or sound.audio else len(item), images=seen) + sound + _text_of(found, seen, sound)

    # --- the provider ---

    def provider(self, data: bytes) -> FromProvider:
        """Read a message from the provider. One that cannot be read is ignored."""
        try:
            event = _EVENT.decode(data)
        except (ValueError, RecursionError):
            return FromProvider()
        kind = event.type
        if kind in _SOUND_DELTAS or kind in _TEXT_DELTAS:
            self._delivered(event)
        elif kind == "response.created":
            return self._response_begins(event)
        elif kind == "response.done":
            return self._response_ends(event)
        elif kind == "input_audio_buffer.committed":
            self._new += Size(audio=math.ceil(self._buffer * _TOKENS_PER_SECOND))
            self._buffer = 0.0
            if self._settings.transcriber:
                return FromProvider(begun=(("transcript", str(event.item_id)),))
        elif kind == "input_audio_buffer.cleared":
            self._buffer = 0.0
        elif kind.startswith(_TRANSCRIBED):
            return self._transcribed(event)
        elif kind in ("session.created", "session.updated") or kind.startswith("transcription_session."):
            self._settings.note(event.session, asked=False)
        elif kind == "error" and isinstance(event.error, dict):
            return FromProvider(rejected=str(event.error.get("event_id") or ""))
        return FromProvider()

    def _delivered(self, event: _Event) -> None:
        begun = self._begun.get(str(event.response_id))
        if begun is None or not isinstance(event.delta, str):
            return
        if event.type in _SOUND_DELTAS:
            begun.sound += Decimal(len(event.delta) * 3 // 4) / _BYTES_PER_SECOND[self._settings.g711]
            return
        if begun.text_bytes < _TEXT_MAX:
            begun.text.append(event.delta)
        begun.text_bytes += len(event.delta.encode("utf-8", "surrogatepass"))

    def _response_begins(self, event: _Event) -> FromProvider:
        response = event.response if isinstance(event.response, dict) else {}
        response_id = str(response.get("id"))
        aside = "conversation_id" in response and response["conversation_id"] is None
        self._begun[response_id] = _Begun(replace(self._new), aside, [])
        return FromProvider(begun=(("response", response_id),))

    def _response_ends(self, event: _Event) -> FromProvider:
        response = event.response if isinstance(event.response, dict) else {}
        response_id = str(response.get("id"))
        usage_so_far = self.usage_so_far("response", response_id)
        begun = self._begun.pop(response_id, None)
        usage = response.get("usage")
        failed = response.get("status") == "failed"
        observed = replace(observed_of(READING, usage, usage_so_far), failed=failed, complete=True)
        if isinstance(usage, dict) and observed.usage and not observed.implausible and begun and not begun.aside:
            self._known = _size_of(usage)
            self._new -= begun.read
        return FromProvider(ended=(("response", response_id, observed),))

    def _transcribed(self, event: _Event) -> FromProvider:
        how = event.type.removeprefix(_TRANSCRIBED)
        if how not in ("completed", "failed"):
            return FromProvider()
        observed = observed_of(TRANSCRIPT, event.usage, Observed(empty=True))
        observed = replace(observed, complete=True, failed=how == "failed", empty=observed.usage is None)
        return FromProvider(ended=(("transcript", str(event.item_id), observed),))

    def unrequested(self, lane: Lane) -> TurnRequest | None:
        """A turn that the provider has begun although nobody requested it."""
        if lane == "response":
            return TurnRequest("response", self._request(ahead=True), by_itself=True)
        return next(iter(self._transcript()), None)

    def usage_so_far(self, lane: Lane, turn_id: str) -> Observed:
        """What a response has read and delivered."""
        if lane == "transcript":
            return Observed(empty=True)
        begun = self._begun.get(turn_id) or _Begun(self._new, False)
        text = self._known.text + (begun.read.text + self._settings.text_bytes) // 4
        audio = self._known.audio + begun.read.audio
        usage = {"input_tokens": max(1, text + audio)} | ({"input_audio_tokens": audio} if audio else {})
        return Observed(
            usage=usage,
            missing=("output_tokens",),
            text="".join(begun.text),
            delivered_bytes=begun.text_bytes,
            sound_seconds=begun.sound,
        )

    # --- our own events ---

    def cancel(self) -> bytes:
        """`response.cancel`, which does no harm if there is no response."""
        return b'{"type":"response.cancel"}'

    def error(self, problem: Problem) -> bytes:
        """An `error` event."""
        self._events += 1
        code = "insufficient_quota" if problem.kind is NO_CREDIT else problem.kind.name
        error = {"type": code, "code": code, "message": problem.message, "param": None, "event_id": None}
        event = {"type": "error", "event_id": f"event_fbx_error{self._events}", "error": error}
        return msgspec.json.encode(event)

    def _seconds(self, coded: int) -> float:
        """Seconds of audio in `coded` bytes of base64, including quotes."""
        return max(0, coded - 2) * 3 / 4 / _BYTES_PER_SECOND[self._settings.g711]


def _refers(value: object) -> str:
    """A stored object that an item or a response refers to, as a text for the caller; empty if none. This API needs no
    such reference, so it is refused without checking whose it is."""
    found = next(references_in(value), None)
    return "" if found is None else f"a {found.kind.replace('_', ' ')} by its ID"


def _audio_of(items: Any, g711: bool) -> Size:
    """The audio in items."""
    total = 0
    for item in items if isinstance(items, list) else ():
        content = item.get("content") if isinstance(item, dict) else None
        for part in content if isinstance(content, list) else ():
            sound = part.get("audio") if isinstance(part, dict) else None
            total += len(sound) if isinstance(sound, str) else 0
    return Size(audio=math.ceil(total * 3 / 4 / _BYTES_PER_SECOND[g711] * _TOKENS_PER_SECOND * 2))


def _text_of(item: Any, images: int, sound: Size) -> Size:
    """The text of an item that also has pictures or audio."""
    if not (images or sound.audio):
        return Size()
    content = item.get("content") if isinstance(item, dict) else None
    kept = {**item, "content": [_plain(part) for part in content]} if isinstance(content, list) else item
    return Size(text=len(msgspec.json.encode(kept)))


def _plain(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    return {name: value for name, value in part.items() if name not in ("audio", "image_url")}


def _size_of(usage: dict[str, Any]) -> Size:
    """What a response read and wrote."""
    size = Size()
    for side in ("input", "output"):
        details = usage.get(f"{side}_token_details")
        details = details if isinstance(details, dict) else {}
        total = limit_of(usage.get(f"{side}_tokens"), 0) or 0
        special = [limit_of(details.get(f"{kind}_tokens"), 0) or 0 for kind in ("audio", "image")]
        # A second of the model's audio is 20 tokens as output, and no more as input.
        size += Size(text=max(0, total - sum(special)), audio=sum(special))
    return size
