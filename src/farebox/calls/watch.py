"""Watching a call while it waits for the provider: for a client that disconnects, silence, and the maximum duration.

One timer serves all calls, because a timer for each wait would cost more than the wait itself.
"""

import asyncio
import math
from types import TracebackType
from typing import Literal

Reason = Literal["client_gone", "silence", "too_long"]


class Interrupted(Exception):
    """The watch ended the wait; `reason` says why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class Watches:
    """The watches of all calls under way, and one timer for the earliest that is due."""

    def __init__(self) -> None:
        self.open: set[Watch] = set()
        self.due = math.inf
        """When the timer fires, on the loop's clock."""
        self._timer: asyncio.TimerHandle | None = None

    def check_at(self, moment: float) -> None:
        """Make sure that all watches are checked by then."""
        if self._timer is not None:
            self._timer.cancel()
        self.due = moment
        self._timer = asyncio.get_running_loop().call_at(moment, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self.due = None, math.inf
        now = asyncio.get_running_loop().time()
        due = min((watch.look(now) for watch in tuple(self.open)), default=math.inf)
        if due < math.inf:
            self.check_at(due)


class Watch:
    """The watch of one exchange. `with watch.waiting(seconds):` raises Interrupted if its block waits too long, or the
    client disconnects; what happens outside such blocks (settling a charge) is never interrupted."""

    __slots__ = (
        "_deadline",
        "_last",
        "_loop",
        "_reason",
        "_silence",
        "_stays",
        "_waiting",
        "_watches",
        "client_gone",
        "task",
    )

    def __init__(self, watches: Watches, task: "asyncio.Task[object]", longest_seconds: float) -> None:
        """`task` is the task that waits."""
        self.task = task
        self.client_gone = False
        self._watches = watches
        self._loop = task.get_loop()
        self._last = self._loop.time()
        self._deadline = self._last + longest_seconds
        self._silence = longest_seconds
        self._waiting = self._stays = False
        self._reason: Reason | None = None
        watches.open.add(self)

    def waiting(self, silence_seconds: float) -> "Watch":
        """In this block, silence may last this long at a time; `progress` reports that something arrived."""
        self._silence = silence_seconds
        self._last = self._loop.time()
        moment = self._last + silence_seconds
        if moment > self._deadline:
            moment = self._deadline
        if moment < self._watches.due:
            self._watches.check_at(moment)
        return self

    def progress(self) -> None:
        self._last = self._loop.time()

    def stay(self) -> None:
        """From now on, wait whether or not the client disconnects: the ID of work that was begun must be learned."""
        self._stays = True

    def leave(self) -> None:
        """The client has disconnected."""
        if self._stays:
            return
        self.client_gone = True
        self._interrupt("client_gone")

    def close(self) -> None:
        """Stop watching."""
        self._watches.open.discard(self)

    def __enter__(self) -> "Watch":
        if self.client_gone:
            raise Interrupted("client_gone")
        self._waiting = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._waiting = False
        if error is not None and self._reason is not None and isinstance(error, asyncio.CancelledError):
            self.task.uncancel()
            reason, self._reason = self._reason, None
            raise Interrupted(reason) from error

    def look(self, now: float) -> float:
        """Interrupt a wait that is over. Returns when to check again."""
        if not self._waiting:
            return math.inf
        due = min(self._deadline, self._last + self._silence)
        if now < due:
            return due
        self._interrupt("too_long" if now >= self._deadline else "silence")
        return math.inf

    def _interrupt(self, reason: Reason) -> None:
        if self._waiting and self._reason is None:
            self._reason = reason
            self.task.cancel()
