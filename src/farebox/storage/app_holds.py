"""The store of what applications said about their holds. The holds themselves are the ledger's."""

import msgspec

from farebox.storage.account_keys import key_of
from farebox.storage.sql import Connection, row

PREFIX = "app:"
"""Prefix of such a hold's ID in the ledger, so that it never equals the ID of a call."""


class AppHold(msgspec.Struct, frozen=True):
    """A hold as its application sees it. Amounts in nano-dollars, times in milliseconds."""

    hold_id: str
    """The application's own ID of the hold."""
    state: str
    """A key of ledger.books.HOLD_STATES."""
    amount: int
    """The amount it reserves, or reserved before it ended."""
    asked: int
    """The amount it was opened with."""
    charge: int
    """If settled: what was charged."""
    written_off: int
    """If settled: the part of the charge that the account could not cover."""
    label: str
    provider: str
    model: str
    note: str
    created_at: int
    expires_at: int
    settled_at: int | None


def open_app_holds(connection: Connection, bucket: int, account_id: str, most: int) -> int:
    """How many of the account's open holds are applications' own; counted up to `most`."""
    # Uses the index of open holds: a range of IDs would include all holds that have ended.
    found = row(
        connection,
        "SELECT count(*) FROM (SELECT 1 FROM holds WHERE bucket = ? AND account_id = ? AND state = 'open' "
        "AND expires_at > 0 AND substr(hold_id, 1, ?) = ? LIMIT ?) found",
        (bucket, account_id, len(PREFIX), PREFIX, most),
    )
    return 0 if found is None else int(found[0])


def add_app_hold(connection: Connection, bucket: int, account_id: str, hold_id: str, label: str) -> None:
    connection.execute(
        "INSERT INTO app_holds (bucket, account_id, hold_id, label) VALUES (?, ?, ?, ?)",
        (bucket, account_id, PREFIX + hold_id, label),
    )


def settle_app_hold(
    connection: Connection, bucket: int, account_id: str, hold_id: str, at: int, provider: str, model: str, note: str
) -> None:
    connection.execute(
        "UPDATE app_holds SET provider = ?, model = ?, note = ?, settled_at = ? "
        "WHERE bucket = ? AND account_id = ? AND hold_id = ?",
        (provider, model, note, at, bucket, account_id, PREFIX + hold_id),
    )


def find_app_hold(connection: Connection, account_id: str, hold_id: str) -> AppHold | None:
    found = row(
        connection,
        "SELECT h.state, h.amount, h.asked, coalesce(h.charge - h.written_off, 0), coalesce(h.written_off, 0), "
        "a.label, coalesce(a.provider, ''), coalesce(a.model, ''), coalesce(a.note, ''), h.created_at, h.expires_at, "
        "a.settled_at FROM holds h "
        "JOIN app_holds a ON a.bucket = h.bucket AND a.account_id = h.account_id AND a.hold_id = h.hold_id "
        "WHERE h.bucket = ? AND h.account_id = ? AND h.hold_id = ?",
        (*key_of(connection, account_id), PREFIX + hold_id),
    )
    return None if found is None else AppHold(hold_id, *found)
