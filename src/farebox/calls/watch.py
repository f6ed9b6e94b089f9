"""Watching over a call while it waits for the provider: a client that disconnects, silence, and the longest duration.

One timer serves all three, because a timer per chunk would cost more than the chunk.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Literal

Reason = Literal["client_gone", "silence", "too_long"]


class Interrupted(Exception):
    """The watch ended the wait; `reason` says why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class Watch:
    """One for each exchange. `with watch.waiting(seconds):` raises Interrupted if its block waits too long, or the
    client disconnects; what happens outside such blocks (settling a charge) is never interrupted."""

    def __init__(self, gone: Callable[[], Awaitable[None]], longest_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._last = self._loop.time()
        self._deadline = self._last + longest_seconds
        self._silence = longest_seconds
        self._waiting = False
        self._is_gone = False
        self._reason: Reason | None = None
        self._watcher = asyncio.ensure_future(gone())
        self._watcher.add_done_callback(self._client_gone)
        self._timer: asyncio.TimerHandle | None = None

    def waiting(self, silence_seconds: float) -> "Watch":
        """What follows may be silent for this long at a time; `progress` reports that something arrived."""
        self._silence = silence_seconds
        self._last = self._loop.time()
        self._wake_at(min(self._deadline, self._last + silence_seconds))
        return self

    def progress(self) -> None:
        self._last = self._loop.time()

    def close(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
        self._watcher.remove_done_callback(self._client_gone)
        self._watcher.cancel()

    def __enter__(self) -> "Watch":
        if self._is_gone:
            raise Interrupted("client_gone")
        self._waiting = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._waiting = False
        if isinstance(error, asyncio.CancelledError) and self._reason is not None:
            assert self._task is not None
            self._task.uncancel()
            reason, self._reason = self._reason, None
            raise Interrupted(reason) from error

    def _wake_at(self, moment: float) -> None:
        """Make sure that `_check` runs by then; an earlier timer reschedules itself."""
        if self._timer is not None:
            if self._timer.when() <= moment:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(moment, self._check)

    def _check(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        now = self._loop.time()
        if now >= self._deadline:
            self._interrupt("too_long")
        elif now >= self._last + self._silence:
            self._interrupt("silence")
        else:
            self._wake_at(min(self._deadline, self._last + self._silence))

    def _client_gone(self, watcher: "asyncio.Future[None]") -> None:
        if not watcher.cancelled():
            self._is_gone = True
            self._interrupt("client_gone")

    def _interrupt(self, reason: Reason) -> None:
        if self._waiting and self._reason is None and self._task is not None:
            self._reason = reason
            self._task.cancel()
