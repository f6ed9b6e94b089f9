"""What the connections of one server share: the handler, the limits, and the timer for their deadlines."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from farebox.http.exchange import Exchange
from farebox.http.server.headers import Dates
from farebox.jobs import OnFailure
from farebox.limits.byte_budget import ByteBudget

PAUSE_ABOVE = 256 * 2**10
"""Bytes of a body or of further requests that a client may send before anything asks for them; above that, reading is
paused. While it is paused, a disconnect is not noticed either."""
PROGRESS_BYTES = 16 * 2**10
"""What a client must read of a waiting response within `Limits.write_seconds`, or send of a body within
`Limits.body_seconds`."""
REST_BYTES = 64 * 2**10
"""What a client may send at once before others get their turn: the event loop keeps reading a connection as long as it
has data. Of the connections that have sent this much, one is read in each iteration of the loop."""
INTAKE_BYTES_A_SECOND = 128 * 2**20
"""The sustained rate of all these connections together: receiving bodies of many megabytes at the speed of a local
network uses a whole processor, and every other call waits for it."""
INTAKE_BURST = 8 * 2**20
"""What they may send before the rate applies."""

Handler = Callable[[Exchange], Awaitable[None] | asyncio.Future[Any] | None]
"""Answers an exchange. Returns what is left to do, which runs in a task; or a future, one of whose callbacks responds;
or None if it has already responded. For a short response, creating a task would be a third of the work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of the server's resources one client may use."""

    header_bytes: int = 64 * 2**10
    """All headers of a request together."""
    headers: int = 100
    target_bytes: int = 16 * 2**10
    connections: int = 10_000
    head_seconds: float = 30.0
    """From a request's first byte to the end of its head."""
    idle_seconds: float = 75.0
    """Between two requests."""
    write_seconds: float = 30.0
    """Time within which a client that lets a response wait must read some of it."""
    body_seconds: float = 20.0
    """Time within which a client whose body is waited for must send some of it."""
    linger_seconds: float = 10.0
    """How long a refused client's data is discarded, so that it can read the reason."""

    @property
    def shortest_seconds(self) -> float:
        return min(self.head_seconds, self.idle_seconds, self.write_seconds, self.body_seconds, self.linger_seconds)


class ServedConnection(Protocol):
    """A connection as its server sees it."""

    deadline: float
    """When `expire` must be called, on the loop's clock."""
    task: "asyncio.Future[Any] | None"
    """What the handler waits for, or its task, while it is processing a request."""

    def expire(self, now: float) -> None:
        """The deadline has passed."""
        ...

    def rested(self) -> None:
        """The connection may be read again."""
        ...

    def finish(self) -> None:
        """Close as soon as the exchange in progress has ended."""
        ...

    def abort(self) -> None:
        """Close now."""
        ...


@dataclass(slots=True, eq=False)
class ServerState:
    handler: Handler
    loop: asyncio.AbstractEventLoop
    dates: Dates
    limits: Limits
    budget: ByteBudget = field(default_factory=ByteBudget)
    """Counts what connections keep that no account has requested; handlers count everything else on it."""
    prefaced: Callable[[str], bool] | None = None
    """Whether connections from this address begin with a header of the PROXY protocol; None: none do."""
    connections: set[ServedConnection] = field(default_factory=set)
    resting: deque[ServedConnection] = field(default_factory=deque)
    """Connections that wait for their turn to be read."""
    intake: float = INTAKE_BURST
    """Bytes that may be read from them now; below zero they wait."""
    intake_at: float = 0.0
    """When `intake` was computed, on the loop's clock."""
    cached_heads: int = 0
    """Number of connections that cache the head of their previous request."""
    closing: bool = False
    emptied: "asyncio.Future[None] | None" = None
    """Done when the last connection is gone."""
    sweeper: asyncio.TimerHandle | None = None
    failed: OnFailure | None = None
    """Called if the timer's callback failed, which is then scheduled again."""

    def add(self, connection: ServedConnection) -> None:
        self.connections.add(connection)
        if self.sweeper is None:
            self._sweep_later()

    def discard(self, connection: ServedConnection) -> None:
        self.connections.discard(connection)
        if not self.connections and self.emptied is not None and not self.emptied.done():
            self.emptied.set_result(None)

    def rest(self, connection: ServedConnection, size: int) -> None:
        """The connection has just sent `size` bytes, and is read again when its turn comes."""
        self.intake -= size
        self.resting.append(connection)
        if len(self.resting) == 1:
            self.loop.call_soon(self._read_next)

    def _read_next(self) -> None:
        now = self.loop.time()
        self.intake = min(INTAKE_BURST, self.intake + (now - self.intake_at) * INTAKE_BYTES_A_SECOND)
        self.intake_at = now
        if self.intake < 0:
            self.loop.call_later(-self.intake / INTAKE_BYTES_A_SECOND, self._read_next)
            return
        self.resting.popleft().rested()
        if self.resting:
            self.loop.call_soon(self._read_next)

    def _sweep_later(self) -> None:
        self.sweeper = self.loop.call_later(min(1.0, self.limits.shortest_seconds / 4), self._sweep)

    def _sweep(self) -> None:
        """One timer for all deadlines: a timer for each request would cost more than checking all connections."""
        self.sweeper = None
        try:
            now = self.loop.time()
            for connection in tuple(self.connections):
                if connection.deadline < now:
                    self._expire(connection, now)
        except Exception as error:  # noqa: BLE001 - without the timer no deadline would be enforced
            self._failed(error)
        finally:
            if self.connections:
                self._sweep_later()

    def _expire(self, connection: ServedConnection, now: float) -> None:
        try:
            connection.expire(now)
        except Exception as error:  # noqa: BLE001 - the others' deadlines are still enforced
            connection.deadline = math.inf
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if self.failed is not None:
            self.failed("http_sweeper", error)
