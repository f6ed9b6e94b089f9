"""The nouns of pricing: a compiled price, what a call may cost, what it did cost.

A price is a table of integer rates. `rate / denominator` is nano-dollars per unit of the meter, exact: every decimal
price of the source becomes an integer over one common denominator of the model.
"""

from dataclasses import dataclass, field

import msgspec

from farebox.usage import Quantity


@dataclass(frozen=True, slots=True)
class Rate:
    """The price of one meter. `tiers` are (start, rate) pairs in rising order: where the call's `input_tokens` is
    above `start`, that rate applies to all of the meter's units (the industry's cliff rule)."""

    meter: str
    base: int
    tiers: tuple[tuple[int, int], ...] = ()
    inside: tuple[str, ...] = ()
    """Priced meters whose quantity is contained in this one's and is charged at their own rate instead."""


OWN = "own/"
"""What the version of a price that the operator set begins with."""


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """What one model costs at one moment."""

    provider: str
    """Farebox's provider slug, such as `google-ai-studio`."""
    model: str
    """The model as the price list names it."""
    version: str
    """Names this exact price for ever: the source with its release and start date, or the operator's price id."""
    denominator: int
    rates: tuple[Rate, ...]
    context_window: int | None = None
    output_max: int | None = None
    """Most output tokens the model produces in one response, where known."""
    audio_seconds_min: int = 0
    """Audio is billed as at least this many seconds, if there is any (Groq's transcription)."""
    bounded: bool = False
    """Whether this is no price, but the most that the call is let cost: what it does cost, the response states."""
    unknown: tuple[str, ...] = field(default=(), compare=False)
    """What was asked of the price (`service_tier=turbo`) that nobody knows the price of: this is the standard one."""
    meters: frozenset[str] = field(init=False, repr=False, compare=False)
    """Those that have a rate."""

    dearest: dict[frozenset[str], int] = field(init=False, repr=False, compare=False)
    """The highest rate of some meters, as it was asked for; of a price with tiers, nothing."""
    tiered: bool = field(init=False, repr=False, compare=False)
    apart: dict[tuple[str, ...], "tuple[Rate, ...] | None"] = field(init=False, repr=False, compare=False)
    """By the meters of a usage: the rates that apply to it, where none contains another; else None."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "meters", frozenset(rate.meter for rate in self.rates))
        object.__setattr__(self, "dearest", {})
        object.__setattr__(self, "apart", {})
        object.__setattr__(self, "tiered", any(rate.tiers for rate in self.rates))

    @property
    def is_own(self) -> bool:
        """Whether the operator set it, rather than a list."""
        return self.version.startswith(OWN)


class CostLine(msgspec.Struct, frozen=True, gc=False):
    """One meter of a receipt. `nanos_numerator / denominator of the cost` is its exact cost.

    A Struct, as are all nouns that every call makes anew: seven times quicker to make than a frozen dataclass.
    """

    meter: str
    quantity: Quantity
    """Units charged at this line's rate, after what special meters took out."""
    rate: int
    nanos_numerator: int
    model: str = ""
    """The model whose price this is, and that price's version, where it is not the call's own."""
    version: str = ""


class Cost(msgspec.Struct, frozen=True, gc=False):
    """What the provider takes: exact, as a fraction of nano-dollars."""

    numerator: int
    denominator: int
    """The price's own; times a power of ten where a quantity has decimals (seconds of audio)."""
    lines: tuple[CostLine, ...]
    rates_over: int = 0
    """What the lines' rates are over; 0: the price's denominator."""


@dataclass(frozen=True, slots=True)
class Markup:
    """Charge = cost × parts_per_million / 10⁶. 1_000_000 charges the cost itself."""

    parts_per_million: int = 1_000_000
    version: str = "none"


class Demand(msgspec.Struct, frozen=True, gc=False):
    """What a request asks for, as far as its cost goes; read by the wire format, priced by the estimate.

    Everything here is an upper bound taken from the request alone.
    """

    model: str
    text_bytes: int = 0
    """UTF-8 bytes of everything the model will read as text: a byte-level tokenizer makes at most one token of each."""
    text: str = ""
    """The same text, for exact counting; only filled in where Demand was read with `exact=True`."""
    messages: int = 0
    tools: int = 0
    images: tuple["ImageInput", ...] = ()
    audio_seconds: int = 0
    """How long the audio input plays, rounded up, as its bytes tell."""
    audio_seconds_max: int = 0
    """No audio of these bytes plays longer. The same where every frame was counted."""
    files_bytes: int = 0
    """Bytes of attached plain-text documents: text that is not in `text`, a token at most for each byte."""
    choices: int = 1
    """`n`, `candidateCount`, `best_of`."""
    output_max: int | None = None
    """Output tokens the request allows per choice; None where it does not say."""
    clampable: bool = False
    """Whether the output can be limited by a parameter of this format."""
    no_output: bool = False
    """Embeddings, moderations: the response has no generated tokens."""
    fixed: dict[str, Quantity] = {}
    """Meters the request fixes outright, such as `input_characters` of speech or `output_image_tokens` of images: what
    a response without usage is charged."""
    allowed: dict[str, Quantity] = {}
    """Meters the request merely allows, at most, such as the searches of a declared tool: held, and charged only where
    the response shows them."""
    unseen: tuple["Unseen", ...] = ()
    """Input whose size the request does not tell."""
    cuts_input: bool = False
    """Whether the provider may leave out what does not fit: then the usage tells less than what is kept there."""
    hides_reasoning: bool = False
    """Whether the request asks for reasoning of which the response shows a summary at most."""
    further_models: tuple["FurtherModel", ...] = ()
    """What the request lets the provider run and bill beside the model's own response."""


class Unseen(msgspec.Struct, frozen=True, gc=False):
    """Input tokens that come from outside the request's own bytes."""

    kind: str
    """What brings them: `file`, `url`, `response`, `conversation`, `prompt`, `cache`, `pdf`, `video`, `web_search`,
    `web_fetch`, `mcp`, `file_search`, `code_execution`…: the name by which it is configured, learned and reported."""
    ref: str = ""
    """The provider's id of it, where it has one whose size may be known from an earlier response."""
    uses: int | None = 1
    """How often at most the request lets it bring something in; None where it does not say."""


class FurtherModel(msgspec.Struct, frozen=True, gc=False):
    """A pass of a model beside the response: a fallback, an advisor, the summing up of a long conversation."""

    model: str
    """Empty for the call's own."""
    uses: int = 1
    """How often at most."""
    output_max: int | None = None
    """Output tokens of each; None where the request does not say."""


@dataclass(frozen=True, slots=True)
class ImageInput:
    """An image in the request. Width and height in pixels where they are known."""

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
