"""A server connection without a network: the test controls client, handler and time step by step."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from farebox.channels import Channel
from farebox.clock import SystemClock
from farebox.errors import Problem
from farebox.http.exchange import ClientGone, Exchange
from farebox.http.server.connection import ClientConnection
from farebox.http.server.headers import Dates
from farebox.http.server.state import PROGRESS_BYTES, Limits, ServerState
from farebox.http.server.write_buffer import WRITE_HIGH, WRITE_LOW
from farebox.limits.byte_budget import ByteBudget
from tests.http.serving import BODY_LIMIT, request

BIG = b"x" * (2 * WRITE_HIGH)
PREFACE = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"


class FakeTransport(asyncio.Transport):
    """Takes written bytes, or buffers them while the client does not read."""

    def __init__(self, connection: ClientConnection, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.connection, self.loop = connection, loop
        self.sent = bytearray()
        self.waiting = 0
        self.stuck = self.reading_paused = self.closing = self.lost = False

    def write(self, data: Any) -> None:
        assert not self.closing
        self.sent += data
        self.waiting += len(data) if self.stuck else 0
        if self.waiting > WRITE_HIGH and not self.connection.write_buffer.stalled:
            self.connection.pause_writing()

    def take(self, size: int) -> None:
        self.waiting = max(0, self.waiting - size)
        if self.waiting <= WRITE_LOW and self.connection.write_buffer.stalled:
            self.connection.resume_writing()
        if self.closing and not self.waiting:
            self.lose()

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert (high, low) == (WRITE_HIGH, WRITE_LOW)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.7", 1) if name == "peername" else None

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading_paused = True

    def resume_reading(self) -> None:
        self.reading_paused = False

    def write_eof(self) -> None:
        assert not self.closing

    def close(self) -> None:
        self.closing = True
        if not self.waiting:
            self.loop.call_soon(self.lose)

    def abort(self) -> None:
        self.closing, self.waiting = True, 0
        self.loop.call_soon(self.lose)

    def lose(self) -> None:
        if not self.lost:
            self.closing = self.lost = True
            self.connection.connection_lost(None)


class Stepped:
    """One connection, with handlers that do what the path asks."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, prefaced: bool = False) -> None:
        self.loop = loop
        self.go = asyncio.Event()
        self.budget = ByteBudget(1 << 20, 1 << 19)
        prefaces: Callable[[str], bool] = lambda _: prefaced  # noqa: E731
        self.state = ServerState(self.handle, loop, Dates(SystemClock()), Limits(), self.budget, prefaces)
        self.connection = ClientConnection(self.state)
        self.channel: Channel
        """Set once a handler has switched to another protocol."""
        self.transport = FakeTransport(self.connection, loop)
        self.rest: list[bytes] = []
        """The rest of a request that the client has yet to send."""
        self.connection.connection_made(self.transport)

    async def handle(self, exchange: Exchange) -> None:
        exchange.hold(self.budget.lease("account"))
        for step in exchange.path.strip("/").split("-"):
            await self.act(exchange, step)

    async def act(self, exchange: Exchange, step: str) -> None:
        match step:
            case "wait":
                await self.go.wait()
            case "body":
                await exchange.body(BODY_LIMIT)
            case "tiny":
                with contextlib.suppress(Problem):
                    await exchange.body(3)
            case "again":
                with contextlib.suppress(RuntimeError):
                    exchange.respond(200, [], b"again")
            case "respond":
                exchange.respond(200, [], b"ok")
            case "big":
                exchange.respond(200, [], BIG)
            case "stream" | "bigstream":
                stream = exchange.start(200, [])
                for _ in range(2):
                    await stream.send(b"chunk" if step == "stream" else BIG)
                    await asyncio.sleep(0)
            case "short" | "long":
                stream = exchange.start(200, [("content-length", "3")])
                await stream.send(b"x" if step == "short" else b"xxxx")
            case "switch":
                self.channel = exchange.switch([])
                await self.channel.send(b"another protocol")
            case "echo":
                while data := await self.channel.receive():
                    await self.channel.send(data)
            case "reset":
                self.channel.abort()
            case "raise":
                raise LookupError
            case "gone":
                raise ClientGone
            case "cancel":
                raise asyncio.CancelledError

    def send(self, data: bytes) -> None:
        if not self.transport.reading_paused and not self.transport.closing:
            self.connection.data_received(data)

    def act_as(self, action: str) -> None:
        """One step of the client, of the handler, of time, or of the server."""
        transport, connection = self.transport, self.connection
        if transport.lost:
            return
        match action.split(" "):
            case ["send", path]:
                self.send(REQUESTS[path])
            case ["half", path]:
                whole = REQUESTS[path]
                self.rest = [whole[len(whole) // 2 :], *self.rest] if not self.rest else self.rest
                self.send(whole[: len(whole) // 2])
            case ["torn", path]:
                self.rest = [REQUESTS[path][-5:], *self.rest]
                self.send(REQUESTS[path][:-5])
            case ["rest"]:
                self.send(self.rest.pop(0) if self.rest else b"\r\n")
            case ["head", path]:
                self.send(REQUESTS[path].partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
            case ["raw", text]:
                self.send(
                    {"nonsense": b"nonsense\r\n\r\n", "line": b"\r\n", "chunk": b"zz\r\n", "preface": PREFACE}[text]
                )
            case ["much"]:
                self.send(b"x" * (8 << 10))
            case ["eof"]:
                if not transport.closing and not connection.eof_received():
                    transport.close()
            case ["lose"]:
                transport.lose()
            case ["stick"]:
                transport.stuck = True
            case ["take"]:
                transport.stuck = False
                transport.take(1 << 30)
            case ["sip"]:
                transport.take(PROGRESS_BYTES)
            case ["late"]:
                if connection.deadline < float("inf"):
                    connection.expire(connection.deadline + 1)
            case ["go"]:
                self.go.set()
            case ["hold"]:
                self.go.clear()
            case ["finish"]:
                self.state.closing = True
                connection.finish()
            case ["abort"]:
                connection.abort()

    async def settle(self) -> None:
        for _ in range(4):
            await asyncio.sleep(0)
        self.check()

    def check(self) -> None:
        """Check the invariants that hold at any time."""
        connection, life = self.connection, self.connection.life
        busy = connection._current is not None
        assert busy == (connection.task is not None)
        if life.response != "closed":
            stalled = connection.write_buffer.stalled
            if life.response != "responded" or not stalled:
                assert busy != (life.response in ("idle", "lingering", "closing")), life.response
            assert busy or connection.deadline < float("inf"), "no wait is unbounded"
            assert life.ending or life.response != "idle" or not connection._reader.waiting
        assert life.request == "closed" or not life.ending
        assert not self.transport.lost or life.response == "closed"

    async def end(self) -> None:
        """End the connection in any state, and check that nothing is left of it."""
        self.go.set()
        self.connection.abort()
        for _ in range(20):
            await asyncio.sleep(0)
        self.check()
        assert self.transport.lost
        assert self.connection.task is None
        assert (self.budget.held_bytes, self.state.cached_heads, len(self.state.connections)) == (0, 0, 0)


PATHS = (
    "respond", "body-respond", "wait-respond", "wait-body-respond", "respond-body", "big", "wait-big", "stream",
    "bigstream", "wait-stream", "stream-wait", "respond-wait", "body-wait-stream", "short", "long", "raise",
    "wait-raise", "respond-raise", "stream-raise", "nothing", "respond-respond", "stream-respond", "gone",
    "switch", "wait-switch", "switch-wait", "switch-raise", "switch-echo", "switch-reset", "switch-gone",
    "stream-gone", "cancel", "big-wait", "tiny-body-respond", "respond-again-wait", "stream-again-wait",
)  # fmt: skip
REQUESTS = {path: request("GET", f"/{path}") for path in PATHS}
REQUESTS |= {f"{path}+post": request("POST", f"/{path}", b"body " * 20) for path in PATHS}
REQUESTS |= {f"{path}+large": request("POST", f"/{path}", b"x" * 10_000) for path in PATHS}
REQUESTS |= {f"{path}+close": request("POST", f"/{path}", b"body", Connection="close") for path in PATHS}
REQUESTS |= {f"{path}+old": f"GET /{path} HTTP/1.0\r\n\r\n".encode() for path in PATHS}
REQUESTS |= {f"{path}+expect": request("POST", f"/{path}", b"body", Expect="100-continue") for path in PATHS}
REQUESTS |= {
    f"{path}+chunks": request("POST", f"/{path}", Transfer_Encoding="chunked") + b"4\r\nbody\r\n0\r\n\r\n"
    for path in PATHS
}
CLIENT = ["rest", "raw nonsense", "raw line", "raw chunk", "raw preface", "much", "eof", "lose", "stick", "take", "sip"]
ACTIONS = [
    *(f"{how} {path}" for path in REQUESTS for how in ("send", "half", "head", "torn")),
    *CLIENT,
    *("late", "go", "hold", "finish", "abort"),
]
OFTEN = [
    *(action for action in ACTIONS if " " not in action or action.startswith("raw")),
    *(f"{how} body-respond+post" for how in ("send", "send", "torn")),
    *("send switch-wait", "send switch-echo", "send switch-raise", "send wait-switch"),
    *("head respond-again-wait+chunks", "torn tiny-body-respond+chunks", "torn stream-wait+chunks"),
]
"""Actions that random walks should take more often than the others."""


async def walk(actions: list[str], *, prefaced: bool = False) -> bytes:
    """Take these steps in order; the bytes that the server sent. Fails if an invariant is violated."""
    loop = asyncio.get_running_loop()
    complaints: list[Any] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    stepped = Stepped(loop, prefaced=prefaced)
    try:
        for action in actions:
            stepped.act_as(action)
            await stepped.settle()
        await stepped.end()
    finally:
        stepped.go.set()
    assert complaints == []
    return bytes(stepped.transport.sent)


def run(actions: list[str], *, prefaced: bool = False) -> bytes:
    """The same, on a new loop."""
    return asyncio.run(walk(actions, prefaced=prefaced))
