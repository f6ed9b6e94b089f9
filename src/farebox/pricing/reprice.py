"""Prices a receipt again at another price: with the usage, tier, markup and rounding of the charge that it explains.

The usage is taken from the receipt's lines. A line counts only what is charged at its own rate, so a general meter's
quantity is the sum of its line and those inside it. Meters without a line are kept on the receipt too
(`Receipt.other_meters`), but not by releases before 0.6.
"""

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from fractions import Fraction
from typing import TypeAlias

import msgspec

from farebox.pricing.bill import STATED
from farebox.pricing.charge import charge_of, cost_of
from farebox.pricing.compiler import Context
from farebox.pricing.model import Cost, Markup, ModelPrice
from farebox.pricing.rates import REQUESTS, ancestors
from farebox.pricing.receipt import Receipt, ReceiptLine
from farebox.usage import AbsurdUsage, Quantity, Usage, quantity_of

_UNKNOWN = "unknown:"


class NotRepriced(StrEnum):
    """Why a call cannot be priced again."""

    BY_RULE = "by_rule"
    """It was not charged by its usage, but the full hold, or as a call that was cut short."""
    STATED = "stated"
    """It was charged the cost that the provider stated."""
    UNPRICED = "unpriced"
    """There is no price for its model now."""
    UNKNOWN_PARTS = "unknown_parts"
    """The price has a meter that the former one lacked, and the receipt, written by an earlier release, does not say
    how much of it was used."""
    DOUBTFUL = "doubtful"
    """The receipt's figures do not fit the price."""


class Repriced(msgspec.Struct, frozen=True):
    """What a call costs at another price."""

    charge: int
    """Nano-dollars, before anything is written off."""
    cost: Fraction
    """Exact nano-dollars, before the markup."""
    version: str
    """Version of the price of the call's own model."""


class PricedModel(msgspec.Struct, frozen=True):
    """The subject of a part of a receipt: one model at one price."""

    model: str
    version: str
    own: bool
    """Whether it is the call's own model, not another one that ran in the same call."""


Wanted: TypeAlias = Callable[[PricedModel], bool]
"""Whether a part is to be priced again."""
PriceOf: TypeAlias = Callable[[PricedModel, Context, Usage], ModelPrice | None]
"""The new price of a part; None: there is none."""
MetersOf: TypeAlias = Callable[[str], frozenset[str] | None]
"""The meters that the price with this version has; None: the version is no longer known."""


def reprice(
    receipt: Receipt, wanted: Wanted, price_of: PriceOf, meters_of: MetersOf, markup: Markup | None = None
) -> Repriced | NotRepriced | None:
    """What the receipt's call costs with another price for the wanted parts, at the receipt's markup unless another is
    given. None if no part is wanted."""
    parts = _parts(receipt)
    if not any(wanted(part) for part in parts):
        return None
    if not receipt.lines:
        return NotRepriced.BY_RULE
    version, total = receipt.price_version or "", Fraction(0)
    for part, lines in parts.items():
        if not wanted(part):
            total += sum(Fraction(line.cost_nanos) for line in lines)
            continue
        found = _part(receipt, part, lines, price_of, meters_of)
        if isinstance(found, NotRepriced):
            return found
        price, cost = found
        total += Fraction(cost.numerator, cost.denominator)
        version = price.version if part.own else version
    return _charged(receipt, total, version, markup)


def at_markup(receipt: Receipt, markup: Markup) -> Repriced | NotRepriced:
    """What the receipt's call costs at the same price with another markup."""
    if not receipt.lines:
        return NotRepriced.BY_RULE
    return _charged(receipt, Fraction(receipt.cost_nanos), receipt.price_version or "", markup)


def _charged(receipt: Receipt, cost: Fraction, version: str, markup: Markup | None) -> Repriced | NotRepriced:
    former = Markup(receipt.markup_parts_per_million, receipt.markup_version)
    charge = _charge(cost, former if markup is None else markup)
    full = receipt.charge_nanos + receipt.written_off_nanos
    if full != (computed := _charge(Fraction(receipt.cost_nanos), former)):
        if not full == receipt.hold_nanos < computed:
            return NotRepriced.BY_RULE
        charge = min(charge, receipt.hold_nanos)  # counted usage is charged only up to the hold
    return Repriced(charge, cost, version)


def context_of(version: str) -> dict[str, str]:
    """The tier, geography… that a price's version names."""
    found: dict[str, str] = {}
    for step in version.replace("+", "/").split("/"):
        for pair in step.removeprefix(_UNKNOWN).split(","):
            name, equals, value = pair.strip().partition("=")
            if equals:
                found[name] = value
    return found


def usage_of(lines: Iterable[ReceiptLine], others: Iterable[tuple[str, str]]) -> dict[str, Quantity]:
    """The usage that these lines charge, including meters without a line."""
    usage: dict[str, Quantity] = {}
    for line in lines:
        if line.meter not in (REQUESTS, STATED):
            for meter in (line.meter, *ancestors(line.meter)):
                usage[meter] = usage.get(meter, 0) + quantity_of(line.quantity)
    return usage | {meter: quantity_of(quantity) for meter, quantity in others}


def _parts(receipt: Receipt) -> dict[PricedModel, list[ReceiptLine]]:
    own = PricedModel(receipt.priced_model or receipt.model, receipt.price_version or "", own=True)
    parts: dict[PricedModel, list[ReceiptLine]] = {own: []}
    for line in receipt.lines:
        other = line.model or line.price_version
        part = PricedModel(line.model or own.model, line.price_version, own=False) if other else own
        parts.setdefault(part, []).append(line)
    return parts


def _part(
    receipt: Receipt, part: PricedModel, lines: Sequence[ReceiptLine], price_of: PriceOf, meters_of: MetersOf
) -> tuple[ModelPrice, Cost] | NotRepriced:
    others = receipt.other_meters if part.own else None
    usage = usage_of(lines, others or ())
    price = price_of(part, context_of(part.version), usage)
    if price is None:
        return NotRepriced.UNPRICED
    if any(line.meter == STATED for line in lines) and not (price.is_own and others):
        return NotRepriced.STATED
    if len({line.meter for line in lines}) < len(lines):
        return NotRepriced.DOUBTFUL  # several passes of the same model with different tiers
    if others is None and _hidden(price, lines, meters_of(part.version)):
        return NotRepriced.UNKNOWN_PARTS
    try:
        return price, cost_of(price, usage)
    except AbsurdUsage:
        return NotRepriced.DOUBTFUL


def _hidden(price: ModelPrice, lines: Sequence[ReceiptLine], known: frozenset[str] | None) -> bool:
    """Whether the price has a meter that may be part of a line, but was not counted for the former price."""
    lined = {line.meter for line in lines}
    return any(
        meter not in lined and not lined.isdisjoint(ancestors(meter)) and not (known is not None and meter in known)
        for meter in price.meters
    )


def _charge(cost: Fraction, markup: Markup) -> int:
    return charge_of(Cost(cost.numerator, cost.denominator, ()), markup)
