"""Rate limits: a number of calls per window and key, such as a gateway or an element of a route.

Counted in this process; a restart starts from zero. If several processes serve one database, each reports its counts
and reads the others' (limits.sharing); counts since the last exchange are not visible to the others.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

KEYS_MAX = 100_000
CROWDED = 0.1
"""Fraction of all windows above which an account has to forget its own windows to make room."""


class RateWindow(NamedTuple):
    """One window of one key. Windows are aligned to the clock: `number` is the time divided by `length` (ms)."""

    account_id: str
    gateway_id: str
    length: int
    number: int

    @property
    def before(self) -> "RateWindow":
        return self._replace(number=self.number - 1)


@dataclass(slots=True)
class _Window:
    length: int
    number: int
    count: int = 0
    before: int = 0
    """Calls in the previous window."""


def _opens_at(window: _Window, limit: int, *, sliding: bool) -> int:
    """When a full window admits a call again if none is counted until then (Unix milliseconds)."""
    start, end = window.number * window.length, (window.number + 1) * window.length
    if not sliding:
        return end
    if window.count < limit:
        return start + window.length * (window.before + window.count - limit) // window.before + 1
    return end + window.length * (window.count - limit) // window.count + 1


class RateLimiter:
    """Counts calls by key in windows aligned to the clock."""

    def __init__(self, *, shared: bool = False) -> None:
        """`shared`: counts are also kept for `take_unreported`."""
        self._windows: dict[tuple[str, str], _Window] = {}
        self._shared = shared
        self._unreported: dict[RateWindow, int] = {}

    def admit(self, key: tuple[str, str], limit: int, seconds: int, *, sliding: bool, now_ms: int) -> int | None:
        """Count a call and return None. If it exceeds the limit, return when a call is admitted again (Unix
        milliseconds).

        A sliding window adds the share of the previous window that still overlaps; it is not an exact rolling count.
        """
        length = seconds * 1000
        number, into = divmod(now_ms, length)
        window = self._window(key, length, number)
        before = window.before * (length - into) if sliding else 0
        if window.count * length + before >= limit * length:
            return _opens_at(window, limit, sliding=sliding)
        window.count += 1
        if self._shared:
            span = RateWindow(*key, length, number)
            self._unreported[span] = self._unreported.get(span, 0) + 1
        return None

    def _window(self, key: tuple[str, str], length: int, number: int) -> _Window:
        window = self._windows.get(key)
        if window is None or window.length != length:
            if len(self._windows) >= KEYS_MAX:
                self._make_room()
            window = self._windows[key] = _Window(length, number)
        elif window.number < number:
            window.before = window.count if number == window.number + 1 else 0
            window.number, window.count = number, 0
        else:
            window.number = number  # unchanged, or the clock was set back: the count goes on
        return window

    def _make_room(self) -> None:
        """Forget the windows of the account that has the most, so that one account does not reset the limits of others;
        all windows if no account stands out."""
        owners = Counter(account_id for account_id, _ in self._windows)
        ((account_id, windows),) = owners.most_common(1)
        if windows < len(self._windows) * CROWDED:
            self._windows.clear()
            return
        self._windows = {key: window for key, window in self._windows.items() if key[0] != account_id}

    # Sharing between processes.

    def take_unreported(self) -> dict[RateWindow, int]:
        """The calls counted since the last report."""
        unreported, self._unreported = self._unreported, {}
        return unreported

    def give_back(self, unreported: Mapping[RateWindow, int]) -> None:
        """Keep counts that could not be reported, for the next report."""
        if len(self._unreported) >= KEYS_MAX:
            return
        for span, calls in unreported.items():
            self._unreported[span] = self._unreported.get(span, 0) + calls

    def learn(self, totals: Mapping[RateWindow, int]) -> None:
        """Set the sums over all processes, including what this one has reported."""
        for span, total in totals.items():
            window = self._windows.get((span.account_id, span.gateway_id))
            if window is None or window.length != span.length:
                continue
            count = total + self._unreported.get(span, 0)
            if window.number == span.number:
                window.count = count
            elif window.number == span.number + 1:
                window.before = count
