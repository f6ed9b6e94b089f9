"""Rate limits: so many calls in a window, per gateway. Kept in this process; a restart begins anew."""

import math
from dataclasses import dataclass

KEYS_MAX = 100_000


@dataclass(slots=True)
class _Window:
    number: int
    count: int
    before: int
    """Calls of the window before this one."""


class RateLimiter:
    """Counts calls by key in windows aligned to the clock."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str], _Window] = {}

    def admit(self, key: tuple[str, str], limit: int, seconds: int, *, sliding: bool, now_ms: int) -> int | None:
        """Count a call and return None, or the seconds to wait where it is one too many.

        A sliding window adds the share of the window before that still overlaps,
        not a true rolling count.
        """
        length = seconds * 1000
        number, into = divmod(now_ms, length)
        window = self._window(key, number)
        weight = (length - into) / length if sliding else 0.0
        if window.count + window.before * weight >= limit:
            return math.ceil((length - into) / 1000)
        window.count += 1
        return None

    def _window(self, key: tuple[str, str], number: int) -> _Window:
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) >= KEYS_MAX:
                self._windows.clear()
            window = self._windows[key] = _Window(number, 0, 0)
        elif window.number != number:
            window.before = window.count if number == window.number + 1 else 0
            window.number, window.count = number, 0
        return window
