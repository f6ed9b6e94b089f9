"""A receipt as it is stored: without the half of it that the row of its call also has. Every call writes one.

Earlier releases stored whole receipts: a field that is present takes precedence over the row.
"""

from collections.abc import Iterable
from typing import TypeAlias

import msgspec
from msgspec.structs import astuple, replace

from farebox.pricing.charge import PER_MILLION
from farebox.pricing.model import Cost, Markup, ModelPrice
from farebox.pricing.receipt import (
    NO_MARKUP,
    Receipt,
    ReceiptAttempt,
    ReceiptCorrection,
    ReceiptLine,
    UsageSource,
    exact_text,
    left_over,
    line_texts,
    lines_of,
    rounding,
    tiers_of,
)
from farebox.storage.calls import ReceiptRow
from farebox.storage.corrections import Correction
from farebox.usage import Usage

StoredLine: TypeAlias = tuple[str, ...]
"""A ReceiptLine by position; model and price version only if it has them."""


class StoredReceipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """The fields of a Receipt, the frequent ones first. For fields that may be None, None means the row's value."""

    price_version: str | None = None
    lines: tuple[StoredLine | ReceiptLine, ...] = ()
    hold_nanos: int = 0
    usage_source: UsageSource = "provider"
    priced_model: str | None = None
    """None: the requested model, if there is a price at all."""
    cost_nanos: str | None = None
    """None: the row's whole nano-dollars."""
    model: str | None = None
    denominator: int = 1
    markup_parts_per_million: int = PER_MILLION
    markup_version: str = "none"
    rounding_nanos: str = "0"
    written_off_nanos: int = 0
    policy: str | None = None
    unpriced_meters: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    stated_usd: str | None = None
    computed_nanos: str | None = None
    other_meters: tuple[tuple[str, str], ...] | None = None
    attempts: tuple[ReceiptAttempt, ...] = ()
    tiers: tuple[int | None, ...] = ()
    """ReceiptLine.above_input_tokens of each line, where one has it."""
    log_id: str | None = None
    account_id: str | None = None
    gateway_id: str | None = None
    provider: str | None = None
    outcome: str | None = None
    charge_nanos: int | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(StoredReceipt).decode


def stored(receipt: Receipt, model: str, cost: int) -> bytes:
    """What is stored of a receipt beside a row with this model and this cost in nano-dollars, rounded up; the row's
    other columns agree with the receipt."""
    parts = receipt.markup_parts_per_million
    return _encode(
        StoredReceipt(  # positional: keyword arguments take 25 times as long for this many fields
            receipt.price_version,
            tuple([_short(astuple(line)[:-1]) for line in receipt.lines]),
            receipt.hold_nanos,
            receipt.usage_source,
            None if receipt.priced_model == receipt.model else receipt.priced_model,
            None if receipt.cost_nanos == str(cost) else receipt.cost_nanos,
            None if receipt.model == model else receipt.model,
            receipt.denominator,
            PER_MILLION if parts == PER_MILLION else parts,  # a default is omitted if it is the same object
            receipt.markup_version,
            receipt.rounding_nanos,
            receipt.written_off_nanos,
            receipt.policy,
            receipt.unpriced_meters,
            receipt.notes,
            receipt.stated_usd,
            receipt.computed_nanos,
            receipt.other_meters,
            receipt.attempts,
            _tiers(receipt),
        )
    )


def stored_of(
    row_model: str,
    row_cost: int,
    model: str,
    usage_source: UsageSource,
    usage: Usage,
    price: ModelPrice | None,
    cost: Cost | None,
    markup: Markup | None,
    hold_nanos: int,
    written_off_nanos: int,
    policy: str | None,
    notes: tuple[str, ...],
    stated_usd: str | None,
    computed_nanos: str | None,
    attempts: tuple[ReceiptAttempt, ...],
) -> bytes:
    """The result of `stored` for `receipt.make_receipt`, without creating the Receipt, because every call writes one.
    `row_…` as in `stored`, the rest as in `make_receipt`."""
    markup = NO_MARKUP if markup is None else markup
    unpriced, other = left_over(usage, price, cost)
    total = "0" if cost is None else exact_text(cost.numerator, cost.denominator)
    parts = markup.parts_per_million
    return _encode(
        StoredReceipt(
            None if price is None else price.version,
            () if price is None or cost is None else tuple([_short(line) for line in line_texts(price, cost)]),
            hold_nanos,
            usage_source,
            None if price is None or price.model == model else price.model,
            None if total == str(row_cost) else total,
            None if model == row_model else model,
            1 if price is None else price.denominator,
            PER_MILLION if parts == PER_MILLION else parts,
            markup.version,
            "0" if cost is None else rounding(cost, markup),
            written_off_nanos,
            policy,
            unpriced,
            notes,
            stated_usd,
            computed_nanos,
            other,
            attempts,
            () if price is None or cost is None else tiers_of(cost),
        )
    )


def _tiers(receipt: Receipt) -> tuple[int | None, ...]:
    tiers = tuple([line.above_input_tokens for line in receipt.lines])
    return () if all(above is None for above in tiers) else tiers


def _short(line: tuple[str, str, str, str, str, str]) -> StoredLine:
    return line if line[4] or line[5] else line[:4]


def whole(found: ReceiptRow) -> Receipt:
    """The whole receipt. Raises msgspec.DecodeError if the stored text is not a receipt."""
    kept = _decode(found.stored)
    model = found.model if kept.model is None else kept.model
    priced = model if kept.priced_model is None and kept.price_version is not None else kept.priced_model
    return Receipt(
        kept.log_id or found.log_id,
        kept.account_id or found.account_id,
        kept.gateway_id or found.gateway_id,
        kept.provider or found.provider,
        model,
        found.outcome if kept.outcome is None else kept.outcome,
        kept.usage_source,
        found.charge if kept.charge_nanos is None else kept.charge_nanos,
        priced,
        kept.price_version,
        kept.denominator,
        lines_of(kept.lines, kept.tiers),
        kept.cost_nanos or str(found.cost),
        kept.markup_parts_per_million,
        kept.markup_version,
        kept.rounding_nanos,
        kept.hold_nanos,
        kept.written_off_nanos,
        kept.policy,
        kept.unpriced_meters,
        kept.notes,
        kept.stated_usd,
        kept.computed_nanos,
        kept.other_meters,
        kept.attempts,
    )


def with_corrections(receipt: Receipt, corrections: Iterable[Correction]) -> Receipt:
    """The receipt with its corrections."""
    shown = [
        ReceiptCorrection(
            each.rerate_id, each.at, each.amount, each.charge, each.price_version, f"correction:{each.correction_id}"
        )
        for each in corrections
    ]
    return replace(receipt, corrections=tuple(shown)) if shown else receipt
