"""What every wire format offers: reading a request, adjusting the few fields that billing needs, reading the usage of a
response."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

import msgspec
from msgspec.structs import replace

from farebox.pricing.model import Demand
from farebox.usage import Quantity


class InvalidRequest(ValueError):
    """The body cannot be read as this format's request; the message says what is wrong, for the caller."""


class UnknownProvider(InvalidRequest):
    """The body names a provider that does not exist."""


class TooComplex(InvalidRequest):
    """The body, or what it asks for, has more parts than are read (formats.bounds); the message says which."""


class Reference(NamedTuple):
    """Something that the provider keeps: `response`, `file`, `conversation`… and its ID there."""

    kind: str
    object_id: str


class ParsedRequest(msgspec.Struct, frozen=True):
    """The parts of a request that billing reads."""

    model: str
    stream: bool
    demand: Demand
    usage_requested: bool = True
    """Whether the client itself requested the usage of a stream (in formats where it must be requested)."""
    context: Mapping[str, str] = {}
    """Requested options that select another price of the model: `service_tier`, `speed`."""
    unmetered: str | None = None
    """Why this request cannot be metered although its path can; None if it can."""
    response_form: str = ""
    """The requested format of a response that does not identify its format itself."""
    tools: tuple[str, ...] = ()
    """The tools that the request declares, by kind and by name, without duplicates."""
    stated: Mapping[str, str] = {}
    """The headers of the response in which its usage is stated, in formats that have some."""
    references: tuple[Reference, ...] = ()
    """What the request refers to by an ID that the provider has handed out."""
    source: str = ""
    """What is stored about the object that it changes, as far as the cost depends on that."""
    background: bool = False
    """Whether the provider answers it before the response is complete."""
    in_thread: bool = False
    """Whether it begins or continues a conversation whose messages and tools the provider keeps."""
    may_refer: bool | None = None
    """The result of references.may_refer for its body; None: the format has not computed it."""


class FurtherUsage(msgspec.Struct, frozen=True):
    """Additional usage that the response bills, such as a pass of another model."""

    model: str
    """The model whose prices apply; empty for the call's own."""
    usage: Mapping[str, Quantity]


class Observed(msgspec.Struct, frozen=True):
    """What was observed of a response while it was relayed."""

    usage: Mapping[str, Quantity] | None = None
    """The provider's own figures, sanity-checked and without zeros; None if none arrived or they are impossible. If
    `complete` is False they are what had been reported so far: a lower bound.
    """
    model: str | None = None
    """The model that the response names."""
    delivered_bytes: int = 0
    """UTF-8 bytes of generated text (including reasoning and tool arguments) so far: bounds the tokens of a cut
    stream.
    """
    context: Mapping[str, str] = {}
    """The options the provider reports as applied; see ParsedRequest.context."""
    problem: str | None = None
    """Why the figures are not trusted, or that none arrived; None if all is well."""
    complete: bool = False
    """Whether the response is complete (terminal event, whole JSON document)."""
    failed: bool = False
    """Whether the response is the provider's report of a failure, inside a 200 stream or body."""
    text: str = ""
    """The generated text, as far as it is kept for counting; empty if usage made counting unnecessary."""
    finish_seen: bool = False
    """Whether every choice has a finish reason: everything generated has been delivered."""
    sound_seconds: Decimal = Decimal(0)
    """Duration of the generated audio, determined from its bytes; zero if usage made counting unnecessary."""
    input_audio_seconds: Decimal = Decimal(0)
    """Lower bound of the duration of the request's audio, from the response's timestamps."""
    image_tokens_delivered: int = 0
    """Tokens of an image that was delivered only in part."""
    further: tuple[FurtherUsage, ...] = ()
    """Billed in addition to `usage`."""
    billed_model: str = ""
    """The model whose prices apply to `usage`, if another one responded; empty for the call's own."""
    stated_usd: Decimal | None = None
    """The call's cost as stated by the provider, if its documentation says that this is the price."""
    notes: tuple[str, ...] = ()
    """Doubts about parts of the figures, for the receipt."""
    missing: tuple[str, ...] = ()
    """Those of `input_tokens` and `output_tokens` that `usage` should report and does not: they must be counted."""
    implausible: bool = False
    """Whether the reported figures are impossible; `problem` says why."""
    reference: str = ""
    """The id under which a later request may refer to this response (`resp_…`)."""
    empty: bool = False
    """Whether the response was empty: no event, and no bytes except white space and comments."""
    broken_off: bool = False
    """Whether a stream stopped where its protocol has more to come."""
    handed_out: tuple[Reference, ...] = ()
    """What the provider keeps of the response, and later requests may refer to."""


class ResponseReader(Protocol):
    """Reads one response while it is relayed. One per call; not reused."""

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes of the response and return the bytes to pass on now: without what the client did not ask
        for (the usage event that Farebox requested), and without what is held back (an unfinished line, the last
        event)."""
        ...

    @property
    def events(self) -> bool:
        """Whether the response is a stream of events."""
        ...

    @property
    def finished(self) -> bool:
        """True once a stream has been ended by its own protocol. That event, and what `feed` is given later, is passed
        on only after the charge is durable: `close` returns it. A whole body, or a stream whose protocol has no
        terminal event, shows its end only by ending: False until `close`."""
        ...

    @property
    def holding(self) -> bool:
        """Whether an event is held back that may be the last of a stream without a terminal event. The caller calls
        `release` if nothing further arrives for a moment.
        """
        ...

    @property
    def all_ended(self) -> bool:
        """Whether every choice has named its finish reason, so that little but usage can follow."""
        ...

    @property
    def input_reported(self) -> bool:
        """Whether the usage reported so far includes the input."""
        ...

    @property
    def kept_bytes(self) -> int:
        """Bytes of a document, or of a long event, that are kept so that it can be read at its end."""
        ...

    def stop_collecting(self) -> None:
        """Stop keeping the response, because there is no memory for it. It then counts as too large to read."""
        ...

    def release(self) -> bytes:
        """Return the event that is held back, to be relayed now."""
        ...

    def close(self) -> tuple[bytes, Observed]:
        """The response has ended, complete or cut off: returns the bytes still held back, and the observations."""
        ...


class WireFormat(Protocol):
    """One request and response format, such as OpenAI's chat completions."""

    @property
    def name(self) -> str:
        """The name of the format; also the log row's `request_type`."""
        ...

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. `path` is the provider's own path (`v1/models/x:generateContent` names a model).
        With `exact`, `demand.text` is filled in. Raises InvalidRequest."""
        ...

    def limit_output(self, body: bytes, tokens: int) -> bytes:
        """The body with its output limit per choice set to `tokens`. Only called if `demand.clampable`."""
        ...

    def request_usage(self, body: bytes) -> bytes:
        """The body, changed to request the usage of a stream. Only called if the client did not request it."""
        ...

    def replace_model(self, body: bytes, model: str) -> bytes:
        """The body with another model name (compat's `provider/model` becomes `model`)."""
        ...

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response. `streaming` is taken from the response's content type, not from the request;
        `hide_usage`: drop the usage event that `request_usage` caused."""
        ...


def with_stated(parsed: ParsedRequest, wire: WireFormat, headers: list[tuple[str, str]]) -> ParsedRequest:
    """The request with those headers of its response that state its usage, if the format has any."""
    names: tuple[str, ...] = getattr(wire, "usage_headers", ())
    if not names:
        return parsed
    return replace(parsed, stated={name.lower(): text for name, text in headers if name.lower() in names})


def framed_reader(parsed: ParsedRequest, wire: WireFormat) -> ResponseReader | None:
    """A reader for a stream in binary framing; None if the request does not ask for one, or the format has none."""
    make: Any = getattr(wire, "framed", None) if parsed.stream else None
    reader: ResponseReader | None = None if make is None else make(parsed)
    return reader
