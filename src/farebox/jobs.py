"""Background jobs, which run as long as the process: a job that ends is restarted.

A job should never end: it is a loop, a timer, or a thread that works off a queue. If one ends for any reason (an
exception in its log, its clock or its database, a cancellation that was not meant for it), that is counted and logged,
and the job is restarted after a pause that grows while it keeps failing. A job that neither ends nor completes a round
is noticed too: `late` names it.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import structlog

PAUSES = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Pauses in seconds before a job is restarted: after the first failure, the second in a row, and so on."""

Work = Callable[[], Coroutine[Any, Any, None]]

log = structlog.get_logger("farebox.jobs")


class OnFailure(Protocol):
    """Called with a job that failed. It does not end the job, and raises nothing."""

    def __call__(self, name: str, error: BaseException | None, /) -> None: ...


@dataclass(slots=True)
class _Round:
    """A job's latest round, timed by the loop's clock."""

    began: float
    at_most: float
    """The maximum duration of a round in seconds."""
    ended: bool = False


class Jobs:
    """The jobs of this process, and their state."""

    def __init__(self) -> None:
        self.restarts: Counter[tuple[str, str]] = Counter()
        """(job, why) → how often the job was restarted. `why`: the class of the exception that ended it,
        `CancelledError` if it was canceled, `ended` if it returned."""
        self._in_a_row: Counter[str] = Counter()
        self._rounds: dict[str, _Round] = {}

    def failed(self, name: str, error: BaseException | None, /) -> None:
        """Count and log that a job ended: with this exception or, if it is None, by returning. Raises nothing."""
        why = "ended" if error is None else type(error).__name__
        self.restarts[name, why] += 1
        with contextlib.suppress(Exception):  # failing to log must not end the job for good
            log.error("periodic job failed", job=name, why=why, exc_info=error)

    async def keep(self, work: Mapping[str, Work]) -> NoReturn:
        """Run all of these until canceled, each restarted whenever it ends."""
        running = {_task(name, run()): name for name, run in work.items()}
        try:
            while True:
                ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    name = running.pop(task)
                    self.failed(name, asyncio.CancelledError() if task.cancelled() else task.exception())
                    running[_task(name, self._again(name, work[name]))] = name
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _again(self, name: str, run: Work) -> None:
        pause = PAUSES[min(self._in_a_row[name], len(PAUSES) - 1)]
        self._in_a_row[name] += 1
        with contextlib.suppress(TimeoutError):  # by the loop's clock, as the program's clock may be what failed
            async with asyncio.timeout(pause):
                await asyncio.Event().wait()
        await run()

    # --- rounds ---

    @contextlib.contextmanager
    def round(self, name: str, at_most: float) -> Iterator[None]:
        """One round of a job, which should take at most `at_most` seconds."""
        current = self._rounds[name] = _Round(asyncio.get_running_loop().time(), at_most)
        try:
            yield
            self._in_a_row.pop(name, None)
        finally:
            current.ended = True

    def report_progress(self, name: str) -> None:
        """Report progress in a round of unlimited duration."""
        current = self._rounds.get(name)
        if current is not None:
            current.began = asyncio.get_running_loop().time()

    def ages(self) -> dict[str, float]:
        """Job → seconds since its latest round began or reported progress."""
        now = asyncio.get_running_loop().time()
        return {name: now - current.began for name, current in self._rounds.items()}

    def late(self) -> list[str]:
        """The jobs whose round takes longer than allowed: they hang."""
        now = asyncio.get_running_loop().time()
        found = self._rounds.items()
        return sorted(name for name, one in found if not one.ended and now - one.began > one.at_most)

    def failing(self) -> list[str]:
        """The jobs that ended twice or more, and have not completed a round since."""
        return sorted(name for name, count in self._in_a_row.items() if count > 1)


def _task(name: str, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    return asyncio.get_running_loop().create_task(work, name=f"job {name}")
