"""Holds that outlive the process that opened them, for work that continues at a provider after its request was
answered."""

from farebox.ledger.rows import read_balance
from farebox.storage.sql import Connection, row


def adopt_hold(connection: Connection, account_id: str, hold_id: str, expires_at: int) -> bool:
    """Detach an open hold from the process that opened it, so that the process's end does not end the hold, and extend
    it to `expires_at` (milliseconds). Returns whether it is open."""
    balance = read_balance(connection, account_id)  # locks it before the hold is changed
    if balance is None:
        return False
    connection.execute(
        "UPDATE holds SET owner = '', expires_at = ? "
        "WHERE bucket = ? AND account_id = ? AND hold_id = ? AND state = 'open'",
        (expires_at, balance.bucket, account_id, hold_id),
    )
    return connection.changes() == 1


def hold_is_open(connection: Connection, bucket: int, account_id: str, hold_id: str) -> bool:
    """Whether the hold has not ended."""
    found = row(
        connection,
        "SELECT state FROM holds WHERE bucket = ? AND account_id = ? AND hold_id = ?",
        (bucket, account_id, hold_id),
    )
    return found is not None and found[0] == "open"
