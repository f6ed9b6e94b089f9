"""The store of transfers summed by day, from which statements are made.

Transfers never change, and an account's versions have no gaps, so a sum up to a version stays correct forever. The sums
are therefore not updated in the commit of a call, but when they are read, and a statement adds the few transfers since.
"""

from dataclasses import dataclass

from farebox.calendar import DAY_MS
from farebox.storage.account_keys import OF_ACCOUNT, AccountKey, find_key, key_of
from farebox.storage.sql import Connection, row, rows

KEEP_FROM = 2_000
"""This many transfers above the mark are read one by one; more are summed once and stored."""


@dataclass(frozen=True, slots=True)
class DaySum:
    """The transfers of one day, kind and pair of books together. `day` in milliseconds, `amount` in nano-dollars."""

    day: int
    kind: str
    from_book: str
    to_book: str
    amount: int


@dataclass(frozen=True, slots=True)
class NewSums:
    """What to add to the stored sums: the transfers with `after` < version <= `upto`."""

    account_id: str
    after: int
    upto: int
    sums: list[DaySum]


def new_sums(connection: Connection, account_id: str) -> NewSums | None:
    """The argument for keep_sums; None if it is not worth a write."""
    key = key_of(connection, account_id)
    latest = row(connection, f"SELECT version FROM balances WHERE {OF_ACCOUNT}", key)
    after, upto = _mark(connection, key), int(latest[0]) if latest else 0
    if upto - after < KEEP_FROM:
        return None
    return NewSums(account_id, after, upto, _sums(connection, key, after, upto))


def keep_sums(connection: Connection, new: NewSums) -> None:
    """Add new sums to the stored ones, unless another process has added some of them in the meantime."""
    key = find_key(connection, new.account_id)
    if key is None or _mark(connection, key) != new.after:
        return
    for item in new.sums:
        connection.execute(
            "INSERT INTO transfer_days (bucket, account_id, day, kind, from_book, to_book, amount) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (bucket, account_id, day, kind, from_book, to_book) DO UPDATE "
            "SET amount = transfer_days.amount + excluded.amount",
            (*key, item.day, item.kind, item.from_book, item.to_book, item.amount),
        )
    connection.execute(
        "INSERT INTO transfer_marks (bucket, account_id, version) VALUES (?, ?, ?) "
        "ON CONFLICT (bucket, account_id) DO UPDATE SET version = excluded.version",
        (*key, new.upto),
    )


def day_sums(connection: Connection, account_id: str) -> list[DaySum]:
    """All of the account's transfers: the stored sums, then the sums of those above the mark. A day may be in both.

    Read it in one snapshot with anything that must agree with it.
    """
    key = key_of(connection, account_id)
    after = _mark(connection, key)
    kept = rows(connection, f"SELECT day, kind, from_book, to_book, amount FROM transfer_days WHERE {OF_ACCOUNT}", key)
    return [DaySum(*fields) for fields in kept] + _sums(connection, key, after)


def _mark(connection: Connection, key: AccountKey) -> int:
    """The version up to which the account's transfers are summed."""
    found = row(connection, f"SELECT version FROM transfer_marks WHERE {OF_ACCOUNT}", key)
    return int(found[0]) if found else 0


def _sums(connection: Connection, key: AccountKey, after: int, upto: int = 2**62) -> list[DaySum]:
    found = rows(
        connection,
        f"SELECT at - at % {DAY_MS}, kind, from_book, to_book, sum(amount) FROM transfers "
        f"WHERE {OF_ACCOUNT} AND version > ? AND version <= ? GROUP BY 1, 2, 3, 4",
        (*key, after, upto),
    )
    return [DaySum(*fields) for fields in found]
