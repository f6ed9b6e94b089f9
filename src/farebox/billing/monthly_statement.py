"""The monthly statement of an account: exact sums over its transfers, and its usage by provider and model."""

from farebox.calendar import HOUR_MS, month_span
from farebox.documents.content import MOVEMENTS, MovementSum, Party, Statement, UsageLine
from farebox.ledger.books import OWN_BOOKS
from farebox.storage.documents import usage_sums
from farebox.storage.sql import Connection, snapshot
from farebox.storage.transfer_days import DaySum, day_sums

_SETTLE_SLACK_MS = HOUR_MS
"""Margin beyond the maximum duration of a call: the hold's extra minute, and a database outage."""

_MOVEMENT_OF = {
    "top_up": "bought",
    "grant": "granted",
    "charge": "charged",
    "correction": "corrected",
    "expiry": "expired",
}
_BACK_BOOKS = frozenset({"refunded", "disputed", "receivable"})
"""The books opposite money that was taken back, or is owed because it could not be taken."""


def statement(
    connection: Connection,
    *,
    account_id: str,
    month: str,
    now: int,
    settle_ms: int,
    seller: Party,
    customer: Party,
) -> Statement:
    """The statement of a month (which must be valid) as of `now`; `settle_ms` is how long a call can take.

    It is read in one snapshot: a concurrent transfer is in all of its figures or in none.
    """
    span = month_span(month)
    assert span is not None, f"{month} is not a month"
    start, end = span
    with snapshot(connection):
        days = day_sums(connection, account_id)
        usage = usage_sums(connection, account_id, start, end)
    opening = sum(_effect(item) for item in days if item.day < start)
    moved = dict.fromkeys(MOVEMENTS, 0)
    for item in days:
        if start <= item.day < end:
            moved[_movement(item)] += _effect(item)
    used = sum(item.charge for item in usage)
    return Statement(
        account_id=account_id,
        month=month,
        start=start,
        end=end,
        made_at=now,
        final=now >= end + settle_ms + _SETTLE_SLACK_MS,
        seller=seller,
        customer=customer,
        opening_nanos=opening,
        movements=tuple(MovementSum(kind, amount) for kind, amount in moved.items() if amount),
        closing_nanos=opening + sum(moved.values()),
        usage=tuple(
            UsageLine(item.provider, item.model, item.calls, item.tokens_in, item.tokens_out, item.charge)
            for item in usage
        ),
        shifted_nanos=-moved["charged"] - used,
    )


def _effect(item: DaySum) -> int:
    """By how much these transfers changed the balance."""
    return item.amount * ((item.to_book in OWN_BOOKS) - (item.from_book in OWN_BOOKS))


def _movement(item: DaySum) -> str:
    if item.from_book in _BACK_BOOKS or item.to_book in _BACK_BOOKS:
        return "refunded"
    return _MOVEMENT_OF.get(item.kind, "other")
