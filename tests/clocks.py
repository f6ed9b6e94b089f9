"""Clocks that tests set."""

from farebox.clock import SystemClock


class Ahead(SystemClock):
    """The system clock plus an offset that the test sets."""

    ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms
