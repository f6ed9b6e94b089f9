"""What a change of `posted` may cause: an auto top-up is requested, or the owner is notified of a low balance.

Both thresholds are in the row that every command reads anyway, so the check costs nothing unless they are crossed.
"""

from farebox.ledger.rows import BalanceRow
from farebox.storage.notices import add_notice
from farebox.storage.sql import Connection
from farebox.storage.top_ups import request_auto


def after_fall(connection: Connection, balance: BalanceRow, before: int, at: int) -> None:
    """Called when `posted` has fallen from `before`."""
    request_top_up(connection, balance, at)
    low = balance.low_below
    if low is not None and balance.posted < low and (before >= low or not balance.low_notified):
        _set_notified(connection, balance, notified=True)
        add_notice(
            connection,
            balance.bucket,
            balance.account_id,
            f"low_balance:{balance.version}",
            "low_balance",
            {"posted_nanos": balance.posted, "low_below_nanos": low},
            at,
        )


def after_rise(connection: Connection, balance: BalanceRow) -> None:
    """Called when `posted` has risen. Once it is no longer low, the next fall is reported again."""
    if balance.low_notified and (balance.low_below is None or balance.posted >= balance.low_below):
        _set_notified(connection, balance, notified=False)


def request_top_up(connection: Connection, balance: BalanceRow, at: int) -> None:
    """If auto top-up is armed and `posted` is below its threshold, request one, and disarm until it has ended."""
    below = balance.top_up_below
    if below is None or balance.posted >= below:
        return
    balance.top_up_below = None
    connection.execute(
        "UPDATE balances SET top_up_below = NULL WHERE bucket = ? AND account_id = ?",
        (balance.bucket, balance.account_id),
    )
    request_auto(connection, balance.bucket, balance.account_id, at)


def _set_notified(connection: Connection, balance: BalanceRow, *, notified: bool) -> None:
    balance.low_notified = notified
    connection.execute(
        "UPDATE balances SET low_told = ? WHERE bucket = ? AND account_id = ?",
        (int(notified), balance.bucket, balance.account_id),
    )
