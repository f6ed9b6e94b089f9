"""What every wire format offers: read a request, adjust the few fields billing needs, read the usage of a response."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Protocol

import msgspec

from farebox.pricing.model import Demand
from farebox.usage import Quantity


class InvalidRequest(ValueError):
    """The body cannot be read as this format's request; the message says what is wrong, for the caller."""


class TooComplex(InvalidRequest):
    """The body, or what it asks for, has more parts than are read (formats.bounds); the message says which."""


class ParsedRequest(msgspec.Struct, frozen=True):
    """A request as far as billing reads it."""

    model: str
    stream: bool
    demand: Demand
    asked_usage: bool = True
    """Whether the client itself asked for the usage of a stream (formats that must be asked)."""
    context: Mapping[str, str] = {}
    """What selects another price of the model: `service_tier`, `speed`, as asked for."""
    unmetered: str | None = None
    """Why this request cannot be metered although its path can; None where it can."""
    response_form: str = ""
    """The form in which the request asks for a response that does not show its form itself."""
    tools: tuple[str, ...] = ()
    """The tools that it declares, by their kind and by their own name, each once."""


class FurtherUsage(msgspec.Struct, frozen=True):
    """Usage that the response bills beside its own, such as a pass of another model."""

    model: str
    """The model whose prices it has; empty for the call's own."""
    usage: Mapping[str, Quantity]


class Observed(msgspec.Struct, frozen=True):
    """What a response showed while it passed."""

    usage: Mapping[str, Quantity] | None = None
    """The provider's own figures, sanity-checked and without zeros; None where none came or they cannot be right. Where
    `complete` is False they are what had been reported by then: at least so much was used."""
    model: str | None = None
    """The model that the response names."""
    delivered_bytes: int = 0
    """UTF-8 bytes of generated text (reasoning and tool arguments included) that passed: bounds the tokens of a cut
    stream."""
    context: Mapping[str, str] = {}
    """What the provider says it applied, of what selects another price; see ParsedRequest.context."""
    problem: str | None = None
    """Why the figures are not trusted, or that none arrived; None if all is well."""
    complete: bool = False
    """Whether the response reached its own end (terminal event, whole JSON document)."""
    failed: bool = False
    """Whether the response is the provider's report of a failure, inside a 200 stream or body."""
    text: str = ""
    """The generated text that passed, as far as it is kept for counting; empty where usage made counting needless."""
    finish_seen: bool = False
    """Whether every choice has named its finish reason: whatever was generated has been delivered."""
    sound_seconds: Decimal = Decimal(0)
    """How long the sound plays that passed, as its own bytes tell; zero where usage made counting needless."""
    heard_seconds: Decimal = Decimal(0)
    """How long the request's audio plays at least, as the response's timestamps tell."""
    pictured: int = 0
    """Tokens of a picture that passed in part only."""
    further: tuple[FurtherUsage, ...] = ()
    """Billed beside `usage`."""
    billed_model: str = ""
    """The model whose prices `usage` has, where the provider let another one response; empty for the call's own."""
    stated_usd: Decimal | None = None
    """What the provider itself says that the call costs, where its documentation calls that the price."""
    notes: tuple[str, ...] = ()
    """Doubts about parts of the figures, for the receipt."""
    missing: tuple[str, ...] = ()
    """Of `input_tokens` and `output_tokens`, those that `usage` should tell and does not: they are to be counted."""
    disbelieved: bool = False
    """Whether the figures that came cannot be; `problem` says why."""
    reference: str = ""
    """The id under which a later request may refer to this response (`resp_…`)."""
    empty: bool = False
    """Whether nothing came at all: no event, and no byte but white space and comments."""


class ResponseReader(Protocol):
    """Reads one response while it passes. One per call; not reused."""

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes of the response and return the bytes to pass on now: the same, less what the client did
        not
        ask for (the usage event that Farebox added), and less what is kept back: an unfinished line, the last event."""
        ...

    @property
    def events(self) -> bool:
        """Whether the response is a stream of events."""
        ...

    @property
    def finished(self) -> bool:
        """Of a stream: True once its own protocol has ended it. That event, and what `feed` is given later, is passed
        on only after the charge is durable: `close` returns it. A whole body, or a stream whose protocol has no
        terminal event, shows its end only by ending: False until `close`."""
        ...

    @property
    def holding(self) -> bool:
        """Whether an event is kept back that may be the last of a stream without a terminal event. Whoever has waited
        for a moment and got nothing further calls `release`."""
        ...

    @property
    def all_ended(self) -> bool:
        """Whether every choice has named its finish reason, so that little but usage can follow."""
        ...

    @property
    def input_told(self) -> bool:
        """Whether the usage reported so far includes the input."""
        ...

    @property
    def kept_bytes(self) -> int:
        """What is kept of a document, or of a long event, so that it can be read at its end."""
        ...

    def forgo(self) -> None:
        """Keep nothing of it: there is no memory for it. It is then a response that was too large to read."""
        ...

    def release(self) -> bytes:
        """The event that is held, to be passed on after all."""
        ...

    def close(self) -> tuple[bytes, Observed]:
        """End of the response, by its own end or cut off: the bytes still kept back, and what was seen."""
        ...


class WireFormat(Protocol):
    """One request and answer format, such as OpenAI's chat completions."""

    @property
    def name(self) -> str:
        """Also the log row's `request_type`."""
        ...

    def parse(self, path: str, content_type: str, body: bytes, *, exact: bool = False) -> ParsedRequest:
        """Read a request. `path` is the provider's own path (`v1/models/x:generateContent` names a model).
        With `exact`, `demand.text` is filled in. Raises InvalidRequest."""
        ...

    def limit_output(self, body: bytes, tokens: int) -> bytes:
        """The body with its output limit per choice set to `tokens`. Only called where `demand.clampable`."""
        ...

    def ask_usage(self, body: bytes) -> bytes:
        """The body, asking a stream for its usage. Only called where a stream did not ask itself."""
        ...

    def replace_model(self, body: bytes, model: str) -> bytes:
        """The body with another model name (compat's `provider/model` becomes `model`)."""
        ...

    def reader(self, parsed: ParsedRequest, *, streaming: bool, hide_usage: bool) -> ResponseReader:
        """A reader for the response. `streaming` as the response's content type says, not as the request asked;
        `hide_usage`: drop the usage event that `ask_usage` caused."""
        ...
