"""A receipt can be restored from its stored part and the row of its call."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from farebox.pricing.receipt import Receipt, ReceiptLine
from farebox.pricing.stored_receipt import stored, whole
from farebox.storage.calls import ReceiptRow

_WORD = st.text(max_size=5)
_AMOUNT = st.integers(0, 2**62)
_LINE = st.builds(
    ReceiptLine, _WORD, _WORD, _WORD, _WORD, model=_WORD, price_version=_WORD, above_input_tokens=st.none() | _AMOUNT
)


@st.composite
def receipts(draw: st.DrawFn) -> tuple[Receipt, ReceiptRow]:
    """A receipt, and the row of its call without the stored part of the receipt."""
    cost, model, requested = draw(_AMOUNT), draw(_WORD), draw(_WORD)
    priced = draw(st.sampled_from([None, requested, "another"]))
    receipt = Receipt(
        log_id="log",
        account_id="account",
        gateway_id="gateway",
        provider="provider",
        model=requested,
        outcome=draw(st.sampled_from(["charged", "released"])),
        usage_source=draw(st.sampled_from(["provider", "counted", "estimate", "none"])),
        charge_nanos=draw(_AMOUNT),
        priced_model=priced,
        price_version=None if priced is None else draw(_WORD),
        denominator=draw(st.integers(1, 10**12)),
        lines=tuple(draw(st.lists(_LINE, max_size=3))),
        cost_nanos=draw(st.sampled_from([str(cost), f"{cost}.5", "0", "25/3"])),
        markup_parts_per_million=draw(st.sampled_from([1_000_000, int("1000000"), 1_200_000])),
        markup_version=draw(st.sampled_from(["none", "m1"])),
        rounding_nanos=draw(st.sampled_from(["0", "0.5"])),
        hold_nanos=draw(_AMOUNT),
        written_off_nanos=draw(_AMOUNT),
        policy=draw(st.none() | _WORD),
        unpriced_meters=tuple(draw(st.lists(_WORD, max_size=2))),
        notes=tuple(draw(st.lists(_WORD, max_size=2))),
        stated_usd=draw(st.none() | _WORD),
        computed_nanos=draw(st.none() | _WORD),
    )
    row = ReceiptRow(
        b"", "account", "log", "gateway", "provider", model, receipt.outcome, cost, receipt.charge_nanos
    )  # fmt: skip
    return receipt, row


@given(receipts())
def test_a_stored_receipt_is_lossless(made: tuple[Receipt, ReceiptRow]) -> None:
    receipt, row = made
    kept = stored(receipt, row.model, row.cost)
    assert whole(msgspec.structs.replace(row, stored=kept)) == receipt


@given(receipts())
def test_receipts_of_former_releases_take_precedence_over_the_row(made: tuple[Receipt, ReceiptRow]) -> None:
    receipt, _ = made
    cost = 0 if receipt.cost_nanos == "0" else 7  # a zero cost was omitted, and is zero on the row too
    row = ReceiptRow(msgspec.json.encode(receipt), "a", "l", "g", "p", "m", "o", cost, 5)
    assert whole(row) == receipt


def test_fields_of_the_row_are_not_stored_in_the_receipt() -> None:
    receipt = Receipt(
        "log", "account", "gateway", "openai", "gpt-4o-mini", "charged", "provider", 12_600, "gpt-4o-mini", "list/1",
        1, (ReceiptLine("input_tokens", "20", "150", "3000"),), "12600", int("1000000"), hold_nanos=127_800,
    )  # fmt: skip
    assert stored(receipt, "gpt-4o-mini", 12_600) == (
        b'{"price_version":"list/1","lines":[["input_tokens","20","150","3000"]],"hold_nanos":127800}'
    )


def test_the_receipt_of_a_refused_call_reads_as_it_was_written() -> None:
    receipt = Receipt("log", "account", "gateway", "openai", "gpt-4o-mini", "refused", "none", 0, cost_nanos="0")
    row = ReceiptRow(b"", "account", "log", "gateway", "openai", "gpt-4o-mini", "refused", 0, 0)
    found = whole(msgspec.structs.replace(row, stored=stored(receipt, row.model, row.cost)))
    assert msgspec.json.encode(found) == msgspec.json.encode(receipt)
