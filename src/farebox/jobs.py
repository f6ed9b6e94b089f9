"""Background jobs of a process, for as long as it lives: each job is restarted whenever it ends.

A job is one that should never end: a loop, a timer, a thread that works off a queue. Whatever ends one (an exception
in its log, its clock, its database, a cancellation that was not meant for it) is counted and logged, and the job is
restarted after a pause that grows while it keeps failing. A job that neither ends nor completes a round is noticed too:
`late` says which, and for how long.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import structlog

PAUSES = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before a job that ended is restarted: the first time, the second in a row…"""

Work = Callable[[], Coroutine[Any, Any, None]]

log = structlog.get_logger("farebox.jobs")


class OnFailure(Protocol):
    """Called with a job that failed; continues, and raises nothing."""

    def __call__(self, name: str, error: BaseException | None, /) -> None: ...


@dataclass(slots=True)
class _Round:
    """A job's latest round, by the loop's clock."""

    began: float
    at_most: float
    """Seconds that one may take."""
    ended: bool = False


class Jobs:
    """The jobs of this process, and their state."""

    def __init__(self) -> None:
        self.restarts: Counter[tuple[str, str]] = Counter()
        """(job, why) → how often it was begun again. Why: the class of the exception that ended it, `CancelledError`
        where it was cancelled, `ended` where it returned."""
        self._in_a_row: Counter[str] = Counter()
        self._rounds: dict[str, _Round] = {}

    def failed(self, name: str, error: BaseException | None, /) -> None:
        """Count and log that a job ended, by this exception or, if None, by returning. Raises nothing."""
        why = "ended" if error is None else type(error).__name__
        self.restarts[name, why] += 1
        with contextlib.suppress(Exception):  # a job does not end because telling of its end failed
            log.error("periodic job failed", job=name, why=why, exc_info=error)

    async def keep(self, work: Mapping[str, Work]) -> NoReturn:
        """Run all of these until cancelled, each restarted whenever it ends."""
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
        with contextlib.suppress(TimeoutError):  # by the loop's own clock: the program's may be what failed
            async with asyncio.timeout(pause):
                await asyncio.Event().wait()
        await run()

    # --- rounds ---

    @contextlib.contextmanager
    def round(self, name: str, at_most: float) -> Iterator[None]:
        """One round of a job, which should take at most this many seconds."""
        current = self._rounds[name] = _Round(asyncio.get_running_loop().time(), at_most)
        try:
            yield
            self._in_a_row.pop(name, None)
        finally:
            current.ended = True

    def report_progress(self, name: str) -> None:
        """A round that may take any time has got somewhere."""
        current = self._rounds.get(name)
        if current is not None:
            current.began = asyncio.get_running_loop().time()

    def ages(self) -> dict[str, float]:
        """Job → seconds since its latest round began."""
        now = asyncio.get_running_loop().time()
        return {name: now - current.began for name, current in self._rounds.items()}

    def late(self) -> list[str]:
        """The jobs whose round takes longer than it may: they hang."""
        now = asyncio.get_running_loop().time()
        found = self._rounds.items()
        return sorted(name for name, one in found if not one.ended and now - one.began > one.at_most)


def _task(name: str, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    return asyncio.get_running_loop().create_task(work, name=f"job {name}")
