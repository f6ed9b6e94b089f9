"""The types of pricing: a compiled price, what a call may cost, and what it did cost.

A price is a table of integer rates. `rate / denominator` is nano-dollars per unit of the meter, exact: every decimal
price of the source becomes an integer over one common denominator for the model.
"""

from dataclasses import dataclass, field

import msgspec

from farebox.usage import Quantity


@dataclass(frozen=True, slots=True)
class Rate:
    """The price of one meter. `tiers` are (start, rate) pairs in rising order: if the call's `input_tokens` is above
    `start`, that rate applies to all of the meter's units (as is usual in the industry)."""

    meter: str
    base: int
    tiers: tuple[tuple[int, int], ...] = ()
    inside: tuple[str, ...] = ()
    """Priced meters whose quantity is contained in this one's and is charged at their own rate instead."""


OWN = "own/"
"""Prefix of the version of a price that the operator set."""


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """What one model costs at one moment."""

    provider: str
    """Farebox's provider slug, such as `google-ai-studio`."""
    model: str
    """The model as the price list names it."""
    version: str
    """Identifies this exact price permanently: the source with its release and start date, or the
    operator's price ID.
    """
    denominator: int
    rates: tuple[Rate, ...]
    context_window: int | None = None
    output_max: int | None = None
    """The most output that the model produces in one response, if known: tokens, or the unit that its price is for."""
    audio_seconds_min: int = 0
    """If there is audio, at least this many seconds of it are billed (Groq's transcription)."""
    bounded: bool = False
    """Whether this is not a price but a cap on the call's cost: the response states the actual cost."""
    unknown: tuple[str, ...] = field(default=(), compare=False)
    """Requested options (`service_tier=turbo`) without a known price: this is the standard price."""
    meters: frozenset[str] = field(init=False, repr=False, compare=False)
    """The meters that have a rate."""

    highest_rates: dict[frozenset[str], int] = field(init=False, repr=False, compare=False)
    """Cache of the highest rate of sets of meters; empty for a price with tiers."""
    tiered: bool = field(init=False, repr=False, compare=False)
    apart: dict[tuple[str, ...], "tuple[Rate, ...] | None"] = field(init=False, repr=False, compare=False)
    """Meters of a usage → the rates that apply to it, if no meter contains another; otherwise None."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "meters", frozenset(rate.meter for rate in self.rates))
        object.__setattr__(self, "highest_rates", {})
        object.__setattr__(self, "apart", {})
        object.__setattr__(self, "tiered", any(rate.tiers for rate in self.rates))

    @property
    def is_own(self) -> bool:
        """Whether the operator set the price, rather than a list."""
        return self.version.startswith(OWN)


class CostLine(msgspec.Struct, frozen=True, gc=False):
    """One meter of a receipt. `nanos_numerator` over the cost's denominator is its exact cost.

    A Struct, like all types that every call instantiates: creating one is seven times faster than a frozen dataclass.
    """

    meter: str
    quantity: Quantity
    """Units charged at this line's rate, without those charged by special meters."""
    rate: int
    nanos_numerator: int
    model: str = ""
    """The model whose price this is, and that price's version, if it is not the call's own."""
    version: str = ""
    above: int | None = None
    """Where the meter's rate depends on the input: of more than this many input tokens, 0 for the base rate."""


class Cost(msgspec.Struct, frozen=True, gc=False):
    """What the provider bills: exact, as a fraction of nano-dollars."""

    numerator: int
    denominator: int
    """The price's denominator, times a power of ten if a quantity has decimals (seconds of audio)."""
    lines: tuple[CostLine, ...]
    rates_over: int = 0
    """The denominator of the lines' rates; 0: the price's denominator."""


@dataclass(frozen=True, slots=True)
class Markup:
    """Charge = cost × parts_per_million / 10⁶. 1_000_000 charges the cost itself."""

    parts_per_million: int = 1_000_000
    version: str = "none"


class Demand(msgspec.Struct, frozen=True, gc=False):
    """What a request asks for, as far as it affects the cost; read by the wire format, priced by the estimate.

    Everything here is an upper bound taken from the request alone.
    """

    model: str
    text_bytes: int = 0
    """UTF-8 bytes of everything the model will read as text: a byte-level tokenizer produces at most one token for
    each."""
    text: str = ""
    """The same text, for exact counting; only set if the request was parsed with `exact=True`."""
    messages: int = 0
    tools: int = 0
    images: tuple["ImageInput", ...] = ()
    audio_seconds: int = 0
    """Duration of the audio input, rounded up, determined from its bytes."""
    audio_seconds_max: int = 0
    """Upper bound of the duration of audio with these bytes; equal to the duration if every frame was counted."""
    files_bytes: int = 0
    """Bytes of attached plain-text documents: text that is not in `text`, at most one token per byte."""
    choices: int = 1
    """`n`, `candidateCount`, `best_of`."""
    output_max: int | None = None
    """Output tokens the request allows per choice; None if it sets no limit."""
    clampable: bool = False
    """Whether the output can be limited by a parameter of this format."""
    limited_by: str = ""
    """The parameter with which the caller can limit the output further; empty if there is none."""
    output_min: int = 1
    """The lowest limit that the provider accepts with the rest of the request."""
    no_output: bool = False
    """Embeddings, moderations: the response has no generated tokens."""
    fixed: dict[str, Quantity] = {}
    """Meters the request fixes outright, such as `input_characters` of speech or `output_image_tokens` of images: what
    a response without usage is charged."""
    allowed: dict[str, Quantity] = {}
    """Upper bounds of meters that the request only allows, such as the searches of a declared tool: held, and charged
    only if the response shows them.
    """
    units: tuple[str, ...] = ()
    """Meters by which a request that is not priced by tokens may be priced: one of them must have a price."""
    unbounded: tuple[str, ...] = ()
    """Those of `units` that nothing in the request bounds: the price itself must bound them, by its `output_max`."""
    unseen: tuple["UnseenInput", ...] = ()
    """Input whose size is not in the request."""
    stored_hours: Quantity = 0
    """How many hours the provider keeps the input, if that is billed by its tokens."""
    cuts_input: bool = False
    """Whether the provider may drop what does not fit: then the usage is less than what the provider has stored."""
    hides_reasoning: bool = False
    """Whether the request asks for reasoning that the response shows at most as a summary."""
    further_models: tuple["FurtherModel", ...] = ()
    """What the request lets the provider run and bill in addition to the model's own response."""


class UnseenInput(msgspec.Struct, frozen=True, gc=False):
    """Input tokens that come from outside the request's own bytes."""

    kind: str
    """What adds them: `file`, `url`, `response`, `conversation`, `prompt`, `cache`, `pdf`, `video`, `web_search`,
    `web_fetch`, `mcp`, `file_search`, `code_execution`…: the name under which it is configured, learned and
    reported."""
    ref: str = ""
    """The provider's ID for it, if its size may be known from an earlier response."""
    uses: int | None = 1
    """How often the request lets it add input at most; None if there is no limit."""


class FurtherModel(msgspec.Struct, frozen=True, gc=False):
    """A pass of a model in addition to the response: a fallback, an advisor, the summary of a long conversation."""

    model: str
    """Empty for the call's own model."""
    uses: int = 1
    """How often it may run at most."""
    output_max: int | None = None
    """Output tokens of each pass; None if the request sets no limit."""


@dataclass(frozen=True, slots=True)
class ImageInput:
    """An image in the request. Width and height in pixels, if known."""

    width: int | None = None
    height: int | None = None
    detail: str = "auto"


class Estimate(msgspec.Struct, frozen=True, gc=False):
    """The most a call can cost."""

    amount: int
    """Nano-dollars of charge, markup included: what to hold."""
    input_tokens: int
    output_tokens: int
    """For all choices together."""
    exact: bool = False
    """Whether the input was counted by a tokenizer rather than bounded by its bytes."""
    whole: bool = False
    """Whether the input is exactly what the provider will report, because its template is known too."""
