"""Accounts and their lots while a batch of ledger.batches works on them."""

from typing import Any

from farebox.ledger.commands import Outcome, Verdict
from farebox.ledger.lots import SPENDING_ORDER

ACCOUNT = (
    "SELECT b.bucket, posted, held, version, owed, top_up_below, low_below, low_told, limit_amount, limit_duration, "
    "limit_strategy, limit_from, limit_until, limit_spent, (SELECT min(expires_at) FROM lots l INDEXED BY lots_unspent "
    "WHERE l.bucket = ?1 AND l.account_id = ?2 AND spent = 0) FROM balances b "
    "WHERE b.bucket = ?1 AND b.account_id = ?2"
)
LOTS = (
    "SELECT lot_id, book, remaining FROM lots INDEXED BY lots_unspent "
    f"WHERE bucket = ? AND account_id = ? AND spent = 0 ORDER BY {SPENDING_ORDER}"
)


class BatchLot:
    """An unspent lot, and whether this batch draws on it."""

    __slots__ = ("book", "drawn", "left", "lot_id")

    def __init__(self, lot_id: str, book: str, left: int) -> None:
        self.lot_id, self.book, self.left, self.drawn = lot_id, book, left, False


class BatchAccount:
    """An account's row and its lots while a batch works on them. Amounts in nano-dollars, times in milliseconds."""

    __slots__ = (
        "account_id", "armed", "bucket", "changed", "due", "duration", "floor", "held", "limit", "lots", "next_lot",
        "owed", "posted", "spent", "strategy", "until", "version", "window",
    )  # fmt: skip

    due: int | None
    """The earliest expiry of its unspent lots."""
    window: int | None
    """Start of the window of its spending limit for which `spent` is the sum."""
    until: int | None  # its end, if it is not that of the UTC calendar

    def __init__(self, account_id: str, row: tuple[Any, ...]) -> None:
        self.account_id = account_id
        (
            self.bucket, self.posted, self.held, self.version, self.owed, top_up_below, low_below, low_notified,
            self.limit, self.duration, self.strategy, self.window, self.until, self.spent, self.due,
        ) = row  # fmt: skip
        marks = [] if top_up_below is None else [top_up_below]
        if low_below is not None and (self.posted >= low_below or not low_notified):
            marks.append(low_below)
        self.floor: int | None = max(marks, default=None)
        """A charge that takes `posted` below this activates ledger.triggers."""
        self.armed = top_up_below is not None and self.posted < top_up_below
        """Whether a refusal would request an auto top-up."""
        self.lots: list[BatchLot] = []
        """In spending order; read with the first charge."""
        self.next_lot = 0
        self.changed = False

    def verdict(self, outcome: Outcome, amount: int = 0) -> Verdict:
        return Verdict(outcome, self.posted, self.held, amount, 0, False, self.owed)
