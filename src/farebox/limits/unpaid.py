"""Limits unpaid work per account: what a provider may bill for calls abandoned before their response began.

A leaky bucket per account, in nano-dollars. It drains evenly, and what the account pays is deducted, so that an
account that abandons a call now and then, and pays for the others, is never near the limit. Counted in this process; a
restart starts from zero.

Times are milliseconds since the Unix epoch.
"""

from dataclasses import dataclass

from farebox.calendar import HOUR_MS

ACCOUNTS_MAX = 100_000
_HOURS_MAX = 24
"""A bucket's capacity is what drains from it in this many hours: no account is locked out for longer."""


@dataclass(slots=True)
class _Bucket:
    level: int
    at: int


class UnpaidWork:
    """What each account has recently left unpaid. `hourly` is both the limit and what leaks in an hour."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}

    @property
    def any(self) -> bool:
        """Whether any account has left something unpaid."""
        return bool(self._buckets)

    def add(self, account_id: str, amount: int, hourly: int, now_ms: int) -> None:
        """The account has left this amount unpaid."""
        bucket = self._leaked(account_id, hourly, now_ms)
        if bucket is None:
            if len(self._buckets) >= ACCOUNTS_MAX:
                self._buckets.clear()
            bucket = self._buckets[account_id] = _Bucket(0, now_ms)
        bucket.level = min(bucket.level + amount, _HOURS_MAX * hourly)

    def paid(self, account_id: str, amount: int) -> None:
        """The account has paid this amount."""
        if self._buckets:
            bucket = self._buckets.get(account_id)
            if bucket is not None:
                bucket.level = max(bucket.level - amount, 0)

    def wait(self, account_id: str, hourly: int, now_ms: int) -> int | None:
        """Seconds until the account is below the limit again; None if it is."""
        bucket = self._leaked(account_id, hourly, now_ms)
        if bucket is None or bucket.level < hourly:
            return None
        return (bucket.level - hourly) * HOUR_MS // (hourly * 1000) + 1

    def _leaked(self, account_id: str, hourly: int, now_ms: int) -> _Bucket | None:
        """The current bucket; None if it is empty."""
        bucket = self._buckets.get(account_id)
        if bucket is None:
            return None
        passed = max(now_ms - bucket.at, 0)
        bucket.level -= hourly * passed // HOUR_MS
        bucket.at = now_ms
        if bucket.level <= 0:
            del self._buckets[account_id]
            return None
        return bucket
