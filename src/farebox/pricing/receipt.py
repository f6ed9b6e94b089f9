"""The explanation of one charge: stored with the log row, shown by the API, the dashboard and the command line.

Amounts that may be fractions of a nano-dollar are text: plain decimals if they terminate, otherwise a fraction `n/d`.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from farebox.pricing.charge import PER_MILLION, unpriced_meters
from farebox.pricing.model import Cost, Markup, ModelPrice
from farebox.usage import Quantity, Usage

UsageSource: TypeAlias = Literal["provider", "counted", "estimate", "none"]
"""Where the figures come from: the provider's response, our own count, the hold's estimate, or nowhere."""


NO_MARKUP = Markup()


class ReceiptLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One meter: quantity × rate = cost."""

    meter: str
    quantity: str
    """Units charged at this rate: those of a more special meter with its own price are on that meter's line."""
    nanos_per_unit: str
    cost_nanos: str
    model: str = ""
    """The model whose price this is, if it is not the call's own; and that price's version."""
    price_version: str = ""
    above_input_tokens: int | None = None
    """Where the rate depends on how long the input is: it is that of calls with more input tokens than this; 0: the
    lowest tier. Null: it does not, or a release before 0.6 wrote the receipt."""


class ReceiptAttempt(msgspec.Struct, frozen=True):
    """One request to a provider, or one step of a request that was refused before it."""

    provider: str
    model: str
    status: int | None
    """The provider's status; null: it did not respond."""
    error: str
    """Why it failed, if the status does not say so; empty: it did not fail."""
    charged: bool
    key: str
    """The alias of the stored key that was used; empty: none."""
    log_id: str
    """ID of its call: a step of a request has its own receipt."""


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One charge, explained so that it can be checked by hand: charge = ⌈Σ lines × markup⌉."""

    log_id: str
    account_id: str
    gateway_id: str
    provider: str
    model: str
    """The model as the request named it."""
    outcome: str
    """`charged`, `free`, `released`, `own_key`…"""
    usage_source: UsageSource
    charge_nanos: int
    """What the account was charged."""
    priced_model: str | None = None
    """The model's name in the price list; None if nothing was priced."""
    price_version: str | None = None
    denominator: int = 1
    """The denominator of the price's integer rates."""
    lines: tuple[ReceiptLine, ...] = ()
    cost_nanos: str = ""
    """What the provider bills, exact; always present."""
    markup_parts_per_million: int = PER_MILLION
    markup_version: str = "none"
    rounding_nanos: str = "0"
    """What rounding the marked-up cost up to whole nano-dollars added: at least 0, below 1."""
    hold_nanos: int = 0
    written_off_nanos: int = 0
    """Part of the marked-up cost that the account was not charged."""
    policy: str | None = None
    """The rule that settled the call if the response was cut or its usage unknown."""
    unpriced_meters: tuple[str, ...] = ()
    """Meters in the usage for which the model has no price: they cost nothing."""
    notes: tuple[str, ...] = ()
    stated_usd: str | None = None
    """The call's cost as stated by the provider, if it states one."""
    computed_nanos: str | None = None
    """The cost by our prices, exact, if the provider states one too."""
    other_meters: tuple[tuple[str, str], ...] | None = None
    """Meters of the usage that have no line, with their quantities: parts that are charged inside a general meter's
    line, or that have no price. Null if a release before 0.6 wrote the receipt, or nothing was priced by usage."""
    attempts: tuple[ReceiptAttempt, ...] = ()
    """If there was more than one: all attempts in order, including earlier steps of the request."""
    corrections: tuple["ReceiptCorrection", ...] = ()
    """What was given back or charged afterwards, because the price was wrong; `charge_nanos` stays what it was."""


class ReceiptCorrection(msgspec.Struct, frozen=True):
    """A correction of one call's charge: a part of one transfer."""

    rerate_id: str
    at: int
    """Unix milliseconds."""
    amount_nanos: int
    """Above zero: given back. Below zero: charged."""
    charge_nanos: int
    """The call's charge at the corrected price, before anything is written off."""
    price_version: str
    transfer_id: str


ReceiptParts: TypeAlias = tuple[
    Usage,
    ModelPrice | None,
    Cost | None,
    Markup | None,
    int,
    int,
    str | None,
    tuple[str, ...],
    str | None,
    str | None,
    tuple[ReceiptAttempt, ...],
]
"""The last arguments of make_receipt, from `usage` on."""


def make_receipt(
    log_id: str,
    account_id: str,
    gateway_id: str,
    provider: str,
    model: str,
    outcome: str,
    usage_source: UsageSource,
    charge_nanos: int,
    usage: Usage | None = None,
    price: ModelPrice | None = None,
    cost: Cost | None = None,
    markup: Markup | None = None,
    hold_nanos: int = 0,
    written_off_nanos: int = 0,
    policy: str | None = None,
    notes: tuple[str, ...] = (),
    stated_usd: str | None = None,
    computed_nanos: str | None = None,
    attempts: tuple[ReceiptAttempt, ...] = (),
) -> Receipt:
    """The receipt of a call. `price`, `cost` and `markup` are those of the charge; None if nothing was priced."""
    markup = NO_MARKUP if markup is None else markup
    unpriced, other = left_over(usage, price, cost)
    return Receipt(  # positional: keyword arguments take 25 times as long for this many fields
        log_id,
        account_id,
        gateway_id,
        provider,
        model,
        outcome,
        usage_source,
        charge_nanos,
        None if price is None else price.model,
        None if price is None else price.version,
        1 if price is None else price.denominator,
        () if price is None or cost is None else lines_of(line_texts(price, cost), tiers_of(cost)),
        "0" if cost is None else exact_text(cost.numerator, cost.denominator),
        markup.parts_per_million,
        markup.version,
        "0" if cost is None else rounding(cost, markup),
        hold_nanos,
        written_off_nanos,
        policy,
        unpriced,
        notes,
        stated_usd,
        computed_nanos,
        other,
        attempts,
    )


@lru_cache(4096)  # rates repeat
def exact_text(numerator: int, denominator: int) -> str:
    """The fraction as plain decimal text if it terminates (`0.15`), otherwise as `n/d` in lowest terms (`25/3`)."""
    if numerator % denominator == 0:
        return str(numerator // denominator)
    value = Fraction(numerator, denominator)
    decimals, rest = 0, value.denominator
    while rest % 10 == 0:
        rest //= 10
        decimals += 1
    for factor in (5, 2):
        while rest % factor == 0:
            rest //= factor
            decimals += 1
    if rest != 1:
        return str(value)
    digits = f"{abs(value.numerator) * 10**decimals // value.denominator:0{decimals + 1}d}"
    sign = "-" if value < 0 else ""
    return f"{sign}{digits[:-decimals]}.{digits[-decimals:]}" if decimals else sign + digits


def line_texts(price: ModelPrice, cost: Cost) -> list[tuple[str, str, str, str, str, str]]:
    """The receipt's lines, each the beginning of a ReceiptLine by position."""
    rates_over, denominator = cost.rates_over or price.denominator, cost.denominator
    return [
        (
            line.meter,
            str(line.quantity) if type(line.quantity) is int else _quantity_text(line.quantity),
            exact_text(line.rate, rates_over),
            exact_text(line.nanos_numerator, denominator),
            line.model,
            line.version,
        )
        for line in cost.lines
    ]


def tiers_of(cost: Cost) -> tuple[int | None, ...]:
    """ReceiptLine.above_input_tokens of each line; empty where no rate depends on the input, as usual."""
    for line in cost.lines:
        if line.above is not None:
            return tuple([line.above for line in cost.lines])
    return ()


def lines_of(
    lines: Iterable[tuple[Any, ...] | ReceiptLine], tiers: Sequence[int | None] = ()
) -> tuple[ReceiptLine, ...]:
    """The lines, from `line_texts` (or parts of them) and `tiers_of`."""
    made = [ReceiptLine(*line) if isinstance(line, tuple) else line for line in lines]
    if tiers:
        made = [replace(line, above_input_tokens=above) for line, above in zip(made, tiers, strict=True)]
    return tuple(made)


def left_over(
    usage: Usage | None, price: ModelPrice | None, cost: Cost | None
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...] | None]:
    """Receipt.unpriced_meters and Receipt.other_meters."""
    if usage is None:
        return (), None
    other = None if cost is None else () if _has_all_lines(usage, cost) else _without_line(usage, cost)
    return () if price is None or other == () else unpriced_meters(price, usage), other


def _has_all_lines(usage: Usage, cost: Cost) -> bool:
    """Whether each meter of the usage has a line, as is usual."""
    if len(cost.lines) != len(usage):
        return False
    for line in cost.lines:  # noqa: SIM110 - a generator takes as long as all the rest
        if line.version or line.meter not in usage:
            return False
    return True


def _without_line(usage: Usage, cost: Cost) -> tuple[tuple[str, str], ...]:
    lined = {line.meter for line in cost.lines if not line.version}
    return tuple([(meter, _quantity_text(count)) for meter, count in usage.items() if meter not in lined and count])


def _quantity_text(quantity: Quantity) -> str:
    return f"{quantity:f}" if isinstance(quantity, Decimal) else str(quantity)


def rounding(cost: Cost, markup: Markup) -> str:
    """Receipt.rounding_nanos."""
    exact, unit = cost.numerator * markup.parts_per_million, cost.denominator * PER_MILLION
    rest = -exact % unit
    return exact_text(rest, unit) if rest else "0"
