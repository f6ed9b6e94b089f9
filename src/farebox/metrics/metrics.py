"""The metrics of one process: the counters for the rest of the program, and the samples taken periodically.

Nothing here raises: a faulty metric must not fail the call.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable

from farebox.clock import SystemClock
from farebox.counts import COUNTING_ERRORS, CounterRow, CounterSheet, Family, private
from farebox.metrics import families as of
from farebox.metrics.families import LAYOUT
from farebox.metrics.figures import KeptFigures
from farebox.storage.activity import Activity

TICK_SECONDS = 0.25
SAMPLE_EVERY_TICKS = 4


class Metrics:
    """Counts in one row of a sheet; without a sheet, in private memory."""

    def __init__(self, sheet: CounterSheet | None = None, number: int = 0) -> None:
        self.place = private(LAYOUT) if sheet is None else sheet.place(number)
        self.places: list[CounterRow] = [self.place] if sheet is None else sheet.all()
        """The sheet of all processes that serve the port."""
        self.place.begin(os.getpid())
        self.samplers: list[Callable[[CounterRow], None]] = []
        """Functions that write current values, or values counted elsewhere in the process, into the sheet."""
        self.figures = KeptFigures()
        self._calls = {values: self.place.counter(of.CALLS, *values) for values in of.CALLS.children}
        self._call_seconds = self.place.histogram(of.CALL_SECONDS)
        self._first_byte_seconds = self.place.histogram(of.FIRST_BYTE_SECONDS)
        self._hold_seconds = self.place.histogram(of.HOLD_SECONDS)
        self._settle_seconds = self.place.histogram(of.SETTLE_SECONDS)
        self._lag = self.place.histogram(of.LAG)
        self._scorer_seconds = self.place.histogram(of.SCORER_SECONDS)

    def activity(self) -> Activity:
        """The counters that the database uses."""
        place = self.place
        return Activity(
            batch_size=place.histogram(of.BATCH_SIZE),
            batch_seconds=place.histogram(of.COMMIT_SECONDS, "batch"),
            job_seconds=place.histogram(of.COMMIT_SECONDS, "job"),
            done={
                **{("money", kind): place.counter(of.MONEY, kind) for (kind,) in of.MONEY.children},
                **{("top_up", state): place.counter(of.TOP_UPS, state) for (state,) in of.TOP_UPS.children},
                ("ledger", "slow"): place.counter(of.SLOW_COMMANDS),
            },
        )

    def count(self, family: Family, *values: str, amount: int = 1) -> None:
        try:  # noqa: SIM105 - `suppress` takes longer than all of it
            self.place.add(family, *values, amount=amount)
        except COUNTING_ERRORS:
            pass

    def observe_hold(self, seconds: float) -> None:
        try:  # noqa: SIM105
            self._hold_seconds.observe_seconds(seconds)
        except COUNTING_ERRORS:
            pass

    def observe_settle(self, seconds: float) -> None:
        try:  # noqa: SIM105
            self._settle_seconds.observe_seconds(seconds)
        except COUNTING_ERRORS:
            pass

    def call_ended(
        self, provider: str, result: str, *, cause: str, duration_ms: int, first_byte_ms: int | None
    ) -> None:
        """`cause` is empty if the call succeeded."""
        try:
            counter = self._calls.get((provider, result))
            if counter is None:
                self.place.add(of.CALLS, provider, result)
            else:
                counter.add()
            self._call_seconds.observe(duration_ms)
            if first_byte_ms is not None:
                self._first_byte_seconds.observe(first_byte_ms)
            if cause:
                self.place.add(of.CALL_ERRORS, cause)
                if cause == "client_gone":
                    self.place.add(of.CLIENTS_GONE)
        except COUNTING_ERRORS:  # the call has been charged; the error is logged elsewhere
            pass

    def observe_scorer(self, seconds: float) -> None:
        with contextlib.suppress(*COUNTING_ERRORS):
            self._scorer_seconds.observe_seconds(seconds)

    def observe_lag(self, seconds: float) -> None:
        with contextlib.suppress(*COUNTING_ERRORS):
            self._lag.observe_seconds(seconds)

    def sample(self) -> None:
        """Take every sample now."""
        for sampler in self.samplers:
            # Samplers read many parts of the program. If one fails, the others still run.
            with contextlib.suppress(Exception):
                sampler(self.place)


class LoopMonitor:
    """Four times a second, measures how late the event loop runs it; once a second, takes all samples.

    It uses timers of the loop instead of a task, which an exception could end.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._monotonic = SystemClock().monotonic  # uvloop's time has whole milliseconds
        self._ticks = 0
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick, self._monotonic() + TICK_SECONDS)

    def _tick(self, due: float) -> None:
        now = self._monotonic()
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick, now + TICK_SECONDS)
        self._metrics.observe_lag(now - due)
        self._ticks += 1
        if self._ticks % SAMPLE_EVERY_TICKS == 0:
            self._metrics.sample()

    def stop(self) -> None:
        """Stop at the end of the process, with a last sample."""
        self._timer.cancel()
        self._metrics.sample()
