"""Shared by the tests of clouds: the outcome of SDK calls."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.calls.kit import differences, log_rows
from tests.support import Customer


class Charged:
    """The cost of the calls in a block, set when the block ends."""

    nanos: int = -1
    receipt: dict[str, Any] = {}  # noqa: RUF012 - of one test
    row: dict[str, Any] = {}  # noqa: RUF012


@contextmanager
def charged(customer: Customer) -> Iterator[Charged]:
    """The one call in the block: what left the balance, its receipt and its log row. Checks that no hold is left and
    that the books balance."""
    before, found = customer.balance.posted, Charged()
    yield found
    after = customer.balance
    assert after.held == 0, "a hold is left"
    found.nanos = before - after.posted
    found.row = log_rows(customer)[0]
    found.receipt = customer.receipt(found.row["id"])
    assert found.receipt["charge_nanos"] == found.nanos
    assert found.receipt.get("hold_nanos", 0) >= found.nanos
    assert differences(customer.farebox) == []


@contextmanager
def free(customer: Customer) -> Iterator[None]:
    """Check that the calls in the block cost nothing and leave no hold."""
    before = customer.balance.posted
    yield
    after = customer.balance
    assert (after.posted, after.held) == (before, 0)
    assert differences(customer.farebox) == []


def all_of(stream: Any) -> Iterator[Any]:
    """The events of a boto3 stream, which is then closed."""
    try:
        yield from stream
    finally:
        stream.close()
