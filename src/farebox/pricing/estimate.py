"""The most that a call can cost, computed from its request alone: the amount of the hold.

Input: a byte of text is at most one token, for byte-level tokenizers and for those that fall back to bytes (a tokenizer
that normalizes may exceed this for a few rare characters; such an overrun is handled like any other). To this are added
the allowances below, what images and audio may become (`media`), and input that the request does not show (`unseen`).
Every token is priced at the highest rate that may apply to it: as new input, as a cache write, at the highest tier
within reach.
"""

import math
from functools import lru_cache

import msgspec
from msgspec import structs

from farebox.pricing.ceilings import family_name, longest_prefix, output_ceiling
from farebox.pricing.charge import PER_MILLION
from farebox.pricing.media import UNSEEN_AUDIO_SECONDS, audio_tokens, image_tokens
from farebox.pricing.model import Demand, Estimate, Markup, ModelPrice
from farebox.pricing.rates import REQUESTS, UNITS, ancestors
from farebox.pricing.unseen import UnseenTokens, tokens_for_unseen

MESSAGE_TOKENS = 8
"""Allowance for each message: role, separators."""

TOOL_TOKENS = 64
"""Allowance for each tool; its JSON is already part of the text."""

TOOLS_TOKENS = 1_600
"""Allowance, once, if there are tools: the hidden instructions (804 published) and one built-in tool (735)."""

CALL_TOKENS = {"": 128, "grok": 1_024}
"""Allowance, once for each call, by prefix of the model's name: the template's own text and hidden prompts."""

_INPUT = {
    meter: unit.dimensions.get("modality", "text")
    for meter, unit in UNITS.units.items()
    if unit.dimensions.get("family") == "tokens" and unit.dimensions.get("direction") == "input"
}
_TEXT = frozenset(meter for meter, modality in _INPUT.items() if modality == "text")
_IMAGE = _TEXT | {meter for meter, modality in _INPUT.items() if modality == "image"}
_AUDIO = _TEXT | {meter for meter, modality in _INPUT.items() if modality == "audio"}
_ANY = frozenset(_INPUT)
_OUTPUT = frozenset(
    meter
    for meter, unit in UNITS.units.items()
    if unit.dimensions.get("family") == "tokens" and unit.dimensions.get("direction") == "output"
)
_DURATIONS = frozenset(meter for meter, unit in UNITS.units.items() if unit.dimensions.get("family") == "durations")
_FAMILIES = {
    meter: frozenset({meter, *ancestors(meter), *(other for other in UNITS.units if meter in ancestors(other))})
    for meter in UNITS.units
}
"""Meter → the meters at whose rate its units may be charged."""


class _Inputs(msgspec.Struct, frozen=True, gc=False):
    """Upper bounds of input tokens, by the meters as which they may be charged."""

    text: int
    images: int
    audio: int
    unseen: int

    @property
    def total(self) -> int:
        return self.text + self.images + self.audio + self.unseen


def estimate(
    demand: Demand,
    price: ModelPrice,
    markup: Markup,
    *,
    exact_input_tokens: int | None = None,
    whole: bool = False,
    unseen: UnseenTokens | None = None,
) -> Estimate:
    """An upper bound of the charge. `exact_input_tokens` is the count of `demand.text` (`tokens.count_tokens`); it
    replaces the byte bound, and the allowances are added; with `whole`, it is the count of the request with its
    template (`chat_template.count_chat`). `unseen` is what is held for unseen input; by default according to the
    default rules, with nothing learned."""
    output = 0 if demand.no_output else _output_limit(demand, price)
    if demand.choices > 1:
        output *= demand.choices
    if demand.images or _has_meters(demand):
        inputs = _inputs(demand, price, exact_input_tokens, unseen, whole=whole)
        reach, total = _reach(demand, inputs), inputs.total
        numerator = _without_output(demand, price, inputs, reach)
    else:  # only text, as in most requests
        reach = total = _text(demand, price, exact_input_tokens, whole=whole)
        numerator = total * _highest_rate(price, _TEXT, total) + _highest_rate(price, _FAMILIES[REQUESTS], total)
    if output:
        numerator += output * _highest_rate(price, _OUTPUT, reach)
    return Estimate(
        -(-numerator * markup.parts_per_million // (price.denominator * PER_MILLION)),  # rounded up
        total,
        output + math.ceil(demand.fixed.get("output_tokens", 0)) if demand.fixed else output,
        exact_input_tokens is not None,
        whole,
    )


def affordable_output(
    demand: Demand,
    price: ModelPrice,
    markup: Markup,
    *,
    available: int,
    exact_input_tokens: int | None = None,
    whole: bool = False,
    unseen: UnseenTokens | None = None,
) -> int:
    """The most output tokens per choice with which the estimate fits into `available` nano-dollars; 0 if none fits.
    Never more than the request allows or the model can produce.
    """
    if demand.no_output:
        return 0
    inputs = _inputs(demand, price, exact_input_tokens, unseen, whole=whole)
    limit = _output_limit(demand, price)
    if not markup.parts_per_million:
        return limit
    budget = available * price.denominator * PER_MILLION // markup.parts_per_million
    reach = _reach(demand, inputs)
    left = budget - _without_output(demand, price, inputs, reach)
    if left < 0:
        return 0
    each = max(1, demand.choices) * _highest_rate(price, _OUTPUT, reach)
    return min(limit, left // each) if each else limit


def _output_limit(demand: Demand, price: ModelPrice) -> int:
    """The output limit per choice. If a request asks for more than the model can produce, the provider refuses it or
    returns less.
    """
    ceiling, wanted = price.output_max or output_ceiling(price), demand.output_max
    return ceiling if wanted is None or wanted > ceiling else wanted


def _text(demand: Demand, price: ModelPrice, counted: int | None, *, whole: bool) -> int:
    """Tokens of the text, with the allowances for what surrounds it. `whole`: those are counted already."""
    if whole and counted is not None:
        return counted
    text = demand.text_bytes if counted is None else min(counted, demand.text_bytes)
    text += _call_tokens(price.model) + MESSAGE_TOKENS * demand.messages + demand.files_bytes
    return text + TOOLS_TOKENS + TOOL_TOKENS * demand.tools if demand.tools else text


def _inputs(
    demand: Demand, price: ModelPrice, counted: int | None, unseen: UnseenTokens | None, *, whole: bool
) -> _Inputs:
    inputs = _Inputs(
        _text(demand, price, counted, whole=whole),
        sum(image_tokens(price.model, image) for image in demand.images) if demand.images else 0,
        audio_tokens(price.model, demand.audio_seconds_max) if demand.audio_seconds_max else 0,
        0,
    )
    if not demand.unseen:
        return inputs
    unseen = tokens_for_unseen(demand) if unseen is None else unseen
    return structs.replace(inputs, unseen=unseen.tokens(price, inputs.total))


@lru_cache(4096)
def _call_tokens(model: str) -> int:
    return longest_prefix(CALL_TOKENS, family_name(model)) or 0


def _reach(demand: Demand, inputs: _Inputs) -> int:
    """The most input tokens that the response can report; they determine the price tier."""
    if not demand.fixed:
        return inputs.total
    return inputs.total + sum(math.ceil(quantity) for meter, quantity in demand.fixed.items() if meter in _ANY)


def _highest_rate(price: ModelPrice, meters: frozenset[str], reach: int) -> int:
    """The highest rate of these meters that may apply to a call with this many input tokens; 0 if none has a price."""
    highest = price.highest_rates.get(meters)
    if highest is not None:
        return highest
    highest = 0
    for rate in price.rates:
        if rate.meter in meters:
            if rate.base > highest:
                highest = rate.base
            for start, number in rate.tiers:
                if number > highest and reach > start:
                    highest = number
    if not price.tiered:
        price.highest_rates[meters] = highest
    return highest


def _without_output(demand: Demand, price: ModelPrice, inputs: _Inputs, reach: int) -> int:
    """The cost without output, as a numerator over the price's denominator: the input, the request itself, and the
    meters that it fixes or allows."""
    return (
        inputs.text * _highest_rate(price, _TEXT, reach)
        + inputs.images * (_highest_rate(price, _IMAGE, reach) if inputs.images else 0)
        + inputs.audio * (_highest_rate(price, _AUDIO, reach) if inputs.audio else 0)
        + inputs.unseen * (_highest_rate(price, _ANY, reach) if inputs.unseen else 0)
        + _highest_rate(price, _FAMILIES[REQUESTS], reach)
        + (_fixed(demand, price, reach) if _has_meters(demand) else 0)
        + (_stored(demand, price, inputs.total) if demand.stored_hours else 0)
    )


def _has_meters(demand: Demand) -> bool:
    return bool(
        demand.fixed
        or demand.allowed
        or demand.audio_seconds_max
        or demand.unseen
        or demand.unbounded
        or demand.stored_hours
    )


def _stored(demand: Demand, price: ModelPrice, tokens: int) -> int:
    """The cost of input that the provider stores."""
    return math.ceil(tokens * demand.stored_hours) * _highest_rate(price, _FAMILIES["stored_token_hours"], tokens)


def _fixed(demand: Demand, price: ModelPrice, reach: int) -> int:
    quantities = {meter: math.ceil(quantity) for meter, quantity in demand.fixed.items() if quantity}
    for meter, quantity in demand.allowed.items():
        quantities[meter] = max(quantities.get(meter, 0), math.ceil(quantity))
    if demand.audio_seconds_max:
        quantities["audio_seconds"] = max(quantities.get("audio_seconds", 0), demand.audio_seconds_max)
    elif any(unseen.kind == "audio" for unseen in demand.unseen):
        quantities["audio_seconds"] = UNSEEN_AUDIO_SECONDS
    if demand.units and price.output_max is not None:
        for meter in demand.units:
            if meter not in demand.fixed and not meter.endswith("_tokens"):
                quantities[meter] = min(quantities.get(meter, price.output_max), price.output_max)
    total = 0
    for meter, quantity in quantities.items():
        if meter == REQUESTS or not ancestors(meter).isdisjoint(quantities):
            continue  # counted once for the call, or inside its general meter
        if meter in _DURATIONS:
            quantity = max(quantity, price.audio_seconds_min)
        total += quantity * _highest_rate(price, _FAMILIES.get(meter, frozenset()), reach)
    return total
