"""Google's Live API (`BidiGenerateContent`), at Google AI Studio and Vertex AI.

The first message names the model, and only there can the output of responses be limited. After that the model responds
to what it is sent and what it hears, one response at a time. Each response reads the whole conversation again, and is
billed for that. The most it can read is what the previous response read and wrote, according to its usage, plus
everything that has passed since.
"""

import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from farebox.errors import Problem
from farebox.pricing.model import Demand, ImageInput
from farebox.providers.formats import bodies
from farebox.providers.formats.base import InvalidRequest, Observed, ParsedRequest
from farebox.providers.formats.google_generate import GoogleGenerate, modalities
from farebox.providers.formats.lenient import ResponseDecoder
from farebox.providers.formats.meters import Reading
from farebox.providers.websockets import gemini_messages as messages
from farebox.providers.websockets.gemini_messages import TOKENS_PER_SECOND, MessageRefused
from farebox.providers.websockets.reader import ByTurns, FromClient, FromProvider, Lane, TurnRequest
from farebox.providers.websockets.realtime_settings import limit_of
from farebox.providers.websockets.sizes import Size, observed_of, seconds_ahead, text_ahead
from farebox.quoting import quoted

READING: Final = Reading(
    ("input_tokens", "promptTokenCount"),
    ("input_tokens", "toolUsePromptTokenCount"),
    ("cache_read_tokens", "cachedContentTokenCount"),
    # Vertex AI uses the second name.
    ("output_tokens", "responseTokenCount", "candidatesTokenCount"),
    ("output_tokens", "thoughtsTokenCount"),
    ("output_reasoning_tokens", "thoughtsTokenCount"),
    *modalities(("cacheTokensDetails",), "cache_{}_read_tokens"),
    *modalities(("promptTokensDetails",), "input_{}_tokens"),
    *modalities(("responseTokensDetails", "candidatesTokensDetails"), "output_{}_tokens"),
    required=("input_tokens", "output_tokens"),
)
_OVERHEAD: Final = Size(text=1_024, audio=1_024)
"""What Google adds by itself: about 500 tokens have been observed, some of them counted as audio."""
_SAID_RATE: Final = 24_000
"""Samples per second of the model's speech."""
_LEAST_OUTPUT: Final = 1_024
"""Least output limit in tokens: about forty seconds of speech."""
_TEXT_MAX: Final = 2**20
_IMAGES_MAX: Final = 1_000
_PICTURE: Final = 258
"""Tokens of a picture that the provider has not counted yet, according to Google's documentation."""
_WRITTEN: Final = ("responseTokenCount", "candidatesTokenCount")
_COUNTS: Final = frozenset({"promptTokenCount", *_WRITTEN})
"""A usage object without any of these says nothing about tokens."""
_PLACED: Final = re.compile(r"v1(?:beta1)?/(projects/[^/]+/locations/[^/]+/)")


class _Turn(msgspec.Struct):
    parts: list[dict[str, Any]] | None = None


class _Content(msgspec.Struct):
    modelTurn: _Turn | None = None
    turnComplete: Any = None


class _Message(msgspec.Struct):
    """A message from the provider."""

    serverContent: _Content | None = None
    toolCall: Any = None
    usageMetadata: Any = None


_MESSAGE: Final = ResponseDecoder[_Message](_Message)


class _Response(msgspec.Struct):
    """A response in progress."""

    turn_id: str
    read: Size
    """What had arrived since the previous response when this one began."""
    usage: dict[str, Any] | None = None
    """The latest usage reported for it."""
    over: bool = False
    """It has ended, but its usage has not arrived."""
    called: bool = False
    """It has called functions, whose results cause another response."""
    text: list[str] = []
    text_bytes: int = 0
    sound: Decimal = Decimal(0)

    def add(self, text: str) -> None:
        """Add generated text."""
        if self.text_bytes < _TEXT_MAX:
            self.text.append(text)
        self.text_bytes += len(text.encode("utf-8", "surrogatepass"))

    @property
    def size(self) -> Size:
        """The size of what it has generated."""
        return Size(text=self.text_bytes, audio=math.ceil(self.sound * TOKENS_PER_SECOND))


class GeminiLiveReader(ByTurns):
    """Reads one session."""

    def __init__(self, path: str, check_model: Callable[[str], None]) -> None:
        """`path`: the path of the session; on Vertex AI it names a project and a location. `check_model` raises Problem
        if the model's audio has no price."""
        placed = _PLACED.match(path)
        place = "" if placed is None else re.escape(placed[1])
        names = "models/" if placed is None else f"(?:{place})?publishers/google/models/"
        self._named = re.compile(rf"(?:{names})?([A-Za-z0-9][A-Za-z0-9._-]{{0,127}})", re.ASCII)
        self._check_model = check_model
        self._model = ""
        """Empty until the session is set up."""
        self._output_max: int | None = None
        self._history_first = False
        """Whether the first contents are only the history of the conversation."""
        self._known, self._new = Size(), Size()
        """What the last response read and wrote, as counted by the provider; what has arrived since then."""
        self._under_way: _Response | None = None
        self._asked = 0
        """Number of requested responses that have not begun."""
        self._called = False
        """The previous response ended with function calls; its turn is completed only later."""
        self._read: Any = None
        """Tokens that the last response read, according to its usage."""
        self._number = 0

    # --- the client ---

    def waits(self, data: bytes) -> bool:
        """Content that requests a response waits: two requested responses could not be told apart."""
        try:
            kind, fields = messages.read_message(data)
        except InvalidRequest:
            return False
        return kind == "clientContent" and bool(fields.get("turnComplete"))

    def client(self, data: bytes, *, text: bool = True) -> FromClient:
        """Read a message from the client. Raises InvalidRequest, Problem."""
        kind, fields = messages.read_message(data)
        if (kind == "setup") is bool(self._model):
            return FromClient(data, refused="a session that is not set up by its first message, and only once")
        refused = ""
        try:
            messages.check(kind, fields)
        except MessageRefused as no:
            refused = str(no)
        match kind:
            case "setup":
                elsewhere = self._set_up(fields, len(data))
                refused = refused or elsewhere
                if not refused:
                    self._check_model(self._model)
            case "clientContent":
                self._new += messages.content_size(fields.get("turns"), len(data))
            case "realtimeInput":
                self._new += messages.input_size(fields)
            case "toolResponse":
                self._new += Size(text=len(data))
        alone = not refused and kind == "clientContent" and self._asks(fields)
        parsed = self._request(clampable=kind == "setup")
        return FromClient(data, (TurnRequest("response", parsed, by_itself=not alone, alone=alone),), refused)

    def _set_up(self, setup: dict[str, Any], length: int) -> str:
        """Set up the session. Returns why its model is refused; empty if it is not."""
        config = messages.spelled(setup.get("generationConfig"))
        history = messages.spelled(setup.get("historyConfig"))
        self._output_max = limit_of(config.get("maxOutputTokens"), None)
        self._history_first = bool(history.get("initialHistoryInClientContent"))
        self._new += Size(text=length)
        named = str(setup.get("model"))
        found = self._named.fullmatch(named)
        self._model = named.rpartition("/")[2] if found is None else found[1]
        return "" if found else f"the model {quoted(named)}, which is not of the place that the URL names"

    def _asks(self, fields: dict[str, Any]) -> bool:
        """Whether content requests a response."""
        if not fields.get("turnComplete"):
            return False
        if self._history_first:
            self._history_first = False
            return False
        self._asked += 1
        return True

    def limited(self, data: bytes, tokens: int) -> bytes:
        """The message that sets up the session, with the output of each response limited to less than the present
        credit covers, because the limit applies to all later responses."""
        ((name, setup),) = ((name, value) for name, value in bodies.fields(data).items() if bytes(value) != b"null")
        self._output_max = limit = min(tokens, max(_LEAST_OUTPUT, tokens // 4))
        return bodies.changed(data, **{name: msgspec.Raw(GoogleGenerate().limit_output(bytes(setup), limit))})

    def _request(self, *, clampable: bool = False) -> ParsedRequest:
        """A response that would begin now, as a request."""
        size = self._known + self._new + _OVERHEAD
        if self._under_way is not None:
            size += self._under_way.size
        seconds = seconds_ahead(size.audio / TOKENS_PER_SECOND)
        demand = Demand(
            self._model,
            text_bytes=text_ahead(size.text),
            messages=1,
            images=(ImageInput(),) * min(size.images, _IMAGES_MAX),
            audio_seconds=seconds,
            audio_seconds_max=seconds,
            output_max=self._output_max,
            clampable=clampable,
        )
        return ParsedRequest(self._model, False, demand)

    # --- the provider ---

    def provider(self, data: bytes) -> FromProvider:
        """Read a message from the provider. One that cannot be read is ignored."""
        try:
            message = _MESSAGE.decode(data)
        except (ValueError, RecursionError):
            return FromProvider()
        content = message.serverContent or _Content()
        begun, ended = list[tuple[Lane, str]](), list[tuple[Lane, str, Observed]]()
        parts = (content.modelTurn.parts if content.modelTurn else None) or []
        if parts or message.toolCall:
            if self._under_way is not None and self._under_way.over:
                ended.append(self._end(self._under_way))
            self._deliver(self._under_way or self._begin(begun), parts, message.toolCall)
        usage = message.usageMetadata
        if isinstance(usage, dict) and usage.keys() & _COUNTS:
            self._count(usage, begun, ended)
        self._complete(bool(content.turnComplete), bool(message.toolCall), ended)
        return FromProvider(tuple(begun), tuple(ended))

    def _begin(self, begun: list[tuple[Lane, str]]) -> _Response:
        self._number += 1
        self._asked = max(0, self._asked - 1)
        self._called = False
        self._under_way = _Response(f"{self._number}", replace(self._new), text=[])
        begun.append(("response", self._under_way.turn_id))
        return self._under_way

    def _deliver(self, response: _Response, parts: list[dict[str, Any]], calls: Any) -> None:
        """Record what the model has generated."""
        for part in parts:
            text, blob = part.get("text"), part.get("inlineData")
            if isinstance(text, str):
                response.add(text)
            elif (seconds := _declared_seconds(blob)) is not None:
                response.sound += Decimal(seconds)
            else:
                response.add(msgspec.json.encode(part).decode())
        if calls:
            response.add(msgspec.json.encode(calls).decode())

    def _count(
        self, usage: dict[str, Any], begun: list[tuple[Lane, str]], ended: list[tuple[Lane, str, Observed]]
    ) -> None:
        """Record reported usage. If it is for a response whose usage was reported before, the input is the same as
        before."""
        response, read = self._under_way, usage.get("promptTokenCount")
        if response is None and read is not None and read == self._read:
            return  # for the one already charged
        if response is not None and response.usage is not None and response.usage.get("promptTokenCount", read) != read:
            ended.append(self._end(response))
            response = None
        response = response or self._begin(begun)
        response.usage = {**(response.usage or {}), **usage}

    def _complete(self, is_complete: bool, calls: bool, ended: list[tuple[Lane, str, Observed]]) -> None:
        """The turn `is_complete`, or the model `calls` functions: either ends a response once its usage has arrived."""
        response = self._under_way
        if response is not None:
            response.over = response.over or is_complete
            response.called = response.called or calls
            if response.usage is not None and (response.over or response.called):
                ended.append(self._end(response))
                self._called = response.called and not response.over
        elif is_complete and self._called:
            self._called = False
        elif is_complete and self._asked:
            self._asked -= 1
            self._number += 1
            ended.append(("response", f"{self._number}", Observed(empty=True, complete=True)))

    def _end(self, response: _Response) -> tuple[Lane, str, Observed]:
        self._under_way = None
        observed = replace(self._observed(response), complete=True)
        if response.usage is not None and not observed.implausible:
            self._known, self._read = _size_of(response.usage), response.usage.get("promptTokenCount")
            self._new -= response.read
        else:
            self._new += response.size
        return "response", response.turn_id, observed

    def _observed(self, response: _Response) -> Observed:
        """What a response has used, according to its latest usage, or else as far as can be observed."""
        read = response.read
        text = self._known.text + read.text // 4 + read.images * _PICTURE
        audio = self._known.audio + read.audio
        usage_so_far = Observed(
            usage={"input_tokens": max(1, text + audio)} | ({"input_audio_tokens": audio} if audio else {}),
            missing=("output_tokens",),
            text="".join(response.text),
            delivered_bytes=response.text_bytes,
            sound_seconds=response.sound,
        )
        usage = response.usage
        if usage is not None and response.sound and not _details(usage):
            details = [{"modality": "AUDIO", "tokenCount": _tokens(usage, *_WRITTEN)}]
            usage = {**usage, "responseTokensDetails": details}
        found = observed_of(READING, usage, usage_so_far)
        return replace(
            found,
            text=usage_so_far.text,
            delivered_bytes=usage_so_far.delivered_bytes,
            sound_seconds=usage_so_far.sound_seconds,
        )

    def unrequested(self, lane: Lane) -> TurnRequest | None:
        """A response that has begun although nobody requested it."""
        return TurnRequest("response", self._request(), by_itself=True)

    def usage_so_far(self, lane: Lane, turn_id: str) -> Observed:
        """What a response has read and delivered."""
        response = self._under_way
        if response is None or response.turn_id != turn_id:
            response = _Response(turn_id, self._new, text=[])
        return self._observed(response)

    # --- our own messages ---

    def cancel(self) -> bytes:
        """Content that requests nothing: it interrupts the response in progress, whose usage then arrives."""
        return b'{"clientContent":{"turnComplete":false}}'

    def error(self, problem: Problem) -> bytes:
        """None: this API reports errors only by the code and reason with which the WebSocket is closed."""
        return b""


def _declared_seconds(blob: Any) -> float | None:
    """Seconds of the model's speech in a blob; None if it is not such audio."""
    try:
        return messages.pcm_seconds(blob, _SAID_RATE)
    except InvalidRequest:  # a field in two spellings
        return None


def _details(usage: dict[str, Any]) -> list[Any]:
    found = usage.get("responseTokensDetails") or usage.get("candidatesTokensDetails")
    return found if isinstance(found, list) else []


def _tokens(usage: dict[str, Any], *names: str) -> int:
    """The first of these figures that is present; 0 if there is none."""
    return next((count for name in names if (count := limit_of(usage.get(name), None)) is not None), 0)


def _size_of(usage: dict[str, Any]) -> Size:
    """What a response read and wrote. Anything that is neither text nor audio costs no more than audio."""
    read = usage.get("promptTokensDetails")
    listed = [*(read if isinstance(read, list) else []), *_details(usage)]
    special = sum(
        _tokens(one, "tokenCount") for one in listed if isinstance(one, dict) and one.get("modality") != "TEXT"
    )
    total = sum(_tokens(usage, name) for name in ("promptTokenCount", "toolUsePromptTokenCount", "thoughtsTokenCount"))
    total += _tokens(usage, *_WRITTEN)
    return Size(text=max(0, total - special), audio=special)
