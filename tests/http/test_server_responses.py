"""How the server sends responses: framing, order, interruptions, and clients that do not read."""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable

import pytest

from farebox.http.exchange import ClientGone, Exchange, HeaderList
from farebox.http.server.reader import PIPELINED_MAX
from farebox.http.server.state import PROGRESS_BYTES
from farebox.http.server.write_buffer import WRITE_HIGH
from tests.http.serving import Recorder, request, serving, until

GET, HEAD = request(), request("HEAD")
OLD = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"

Handler = Callable[[Exchange], Awaitable[None] | None]


def whole(status: int, headers: HeaderList, body: bytes) -> Handler:
    async def handler(exchange: Exchange) -> None:
        exchange.respond(status, headers, body)

    return handler


def streamed(headers: HeaderList, *chunks: bytes, status: int = 200) -> Handler:
    async def handler(exchange: Exchange) -> None:
        stream = exchange.start(status, headers)
        for chunk in chunks:
            await stream.send(chunk)

    return handler


async def test_a_whole_response_byte_for_byte() -> None:
    headers = [("content-type", "text/plain"), ("x-a", "1"), ("x-a", "2")]
    async with serving(whole(200, headers, b"hello")) as served:
        peer = await served.open(request(Connection="close"))
        raw = await peer.end()
        date = r"date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"
        assert re.fullmatch(
            r"HTTP/1\.1 200 OK\r\ncontent-type: text/plain\r\nx-a: 1\r\nx-a: 2\r\n" + date + r"\r\n"
            r"content-length: 5\r\nconnection: close\r\n\r\nhello",
            raw.decode(),
        )


@pytest.mark.parametrize(
    ("sent", "handler", "status", "length", "body"),
    [
        (HEAD, whole(200, [], b"hello"), 200, "5", b""),
        (HEAD, whole(200, [("Content-Length", "7")], b""), 200, "7", b""),
        (HEAD, whole(200, [], b""), 200, None, b""),
        (HEAD, streamed([("content-length", "9")], b"123456789"), 200, "9", b""),
        (GET, whole(204, [], b"never"), 204, None, b""),
        (GET, whole(304, [("content-length", "9")], b""), 304, "9", b""),
        (GET, streamed([], b"never", status=204), 204, None, b""),
        (GET, whole(200, [("content-length", "99")], b"five!"), 200, "5", b"five!"),
        (GET, whole(799, [], b"x"), 799, "1", b"x"),
        (GET, whole(200, [], b"x" * 3_000_000), 200, "3000000", b"x" * 3_000_000),
        (GET, streamed([("content-length", "6")], b"abc", b"", b"def"), 200, "6", b"abcdef"),
        (OLD, whole(200, [], b"old"), 200, "3", b"old"),
        (OLD, streamed([("content-length", "3")], b"old"), 200, "3", b"old"),
    ],
)  # fmt: skip
async def test_response_framings(sent: bytes, handler: Handler, status: int, length: str | None, body: bytes) -> None:
    async with serving(handler) as served:
        peer = await served.open()
        for _ in range(2):  # bytes outside the frame would corrupt the second response
            peer.send(sent)
            response = await peer.response(to_head=sent == HEAD)
            assert (response.status, response.headers.get("content-length"), response.body) == (status, length, body)
            assert "transfer-encoding" not in response.headers


async def test_streams_are_sent_in_chunks() -> None:
    async with serving(streamed([], b"one", b"", b"x" * 300_000, b"three")) as served:
        peer = await served.open(GET + GET)
        for _ in range(2):
            response = await peer.response()
            assert response.headers["transfer-encoding"] == "chunked"
            assert response.body == b"one" + b"x" * 300_000 + b"three"
        peer.send(HEAD + GET)
        assert (await peer.response(to_head=True)).headers["transfer-encoding"] == "chunked"
        assert (await peer.response()).status == 200
        old = await (await served.open(OLD)).end()
        assert old.endswith(b"connection: close\r\n\r\none" + b"x" * 300_000 + b"three")
    async with serving(streamed([])) as served:
        peer = await served.open(GET + GET)
        assert [(await peer.response()).body for _ in range(2)] == [b"", b""]


async def test_sent_data_is_written_at_once() -> None:
    steps: asyncio.Queue[bytes] = asyncio.Queue()

    async def handler(exchange: Exchange) -> None:
        stream = exchange.start(200, [])
        while chunk := await steps.get():
            await stream.send(chunk)

    async with serving(handler) as served:
        peer = await served.open(GET)
        head = await asyncio.wait_for(peer.reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        for event in (b"data: 1\n\n", b"data: 2\n\n"):
            steps.put_nowait(event)
            expected = b"%x\r\n%b\r\n" % (len(event), event)
            assert await asyncio.wait_for(peer.reader.readexactly(len(expected)), 5) == expected
        steps.put_nowait(b"")
        assert await asyncio.wait_for(peer.reader.readexactly(5), 5) == b"0\r\n\r\n"


@pytest.mark.parametrize(
    "header",
    [
        ("x", "a\r\nevil: 1"),
        ("x", "a\nevil: 1"),
        ("x", "a\revil: 1"),
        ("x", "a\0"),
        ("x", "a\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        ("x\r\nevil", "1"),
        ("x: 1\r\nevil", "1"),
        ("x y", "1"),
        ("", "1"),
        ("x", "\u20ac"),
        ("Connection", "keep-alive"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "h2c"),
        ("content-length", "1\r\n"),
        ("content-length", "-1"),
        ("content-length", "\u0661"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_nothing_is_smuggled_into_a_response(header: tuple[str, str], stream: bool) -> None:
    raised = []

    async def handler(exchange: Exchange) -> None:
        try:
            if stream:
                exchange.start(200, [header])
            else:
                exchange.respond(200, [header], b"")
        except ValueError as error:
            raised.append(error)
            raise

    async with serving(handler) as served:
        peer = await served.open(GET)
        raw = await peer.end()
        assert raised
        assert raw.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert b"evil" not in raw
        assert raw.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("status", [0, 100, 199, 1000, -1])
async def test_an_invalid_status(status: int) -> None:
    async with serving(whole(status, [], b"")) as served:
        assert (await served.ask(GET)).status == 500


async def test_the_date_may_be_the_handlers_own() -> None:
    """In any spelling, and it is not sent twice."""
    for name in ("Date", "date", "DATE", "Date", "date"):
        async with serving(whole(200, [("X-One", "1"), (name, "then")], b"")) as served:
            response = await served.ask(GET)
        assert (response.headers["date"], response.headers["x-one"]) == ("then", "1")
    async with serving(whole(200, [("X-One", "1")], b"")) as served:
        assert (await served.ask(GET)).headers["date"].endswith(" GMT")


# --- breaking off -----------------------------------------------------------------------------------------------------


class Mistake(Exception):
    """An error of the handler."""


async def test_a_handler_that_fails_before_its_response() -> None:
    async def handler(exchange: Exchange) -> None:
        raise Mistake("with a secret")

    async with serving(handler) as served:
        peer = await served.open(GET + GET)
        response = await peer.response()
        assert (response.status, response.headers["connection"]) == (500, "close")
        assert b"secret" not in response.body
        assert await peer.closed()


async def test_a_handler_that_forgets_to_answer() -> None:
    async def handler(exchange: Exchange) -> None:
        """Does not respond."""

    async with serving(handler) as served:
        assert (await served.ask(GET)).status == 500


async def test_a_handler_that_responds_at_once_needs_no_task() -> None:
    """With the maximum number of pipelined requests, some of which a task answers."""
    tasks: list[str] = []

    async def later(exchange: Exchange) -> None:
        tasks.append(exchange.query)
        await asyncio.sleep(0)
        exchange.respond(200, [], exchange.query.encode())

    def handler(exchange: Exchange) -> Awaitable[None] | None:
        if int(exchange.query) % 20 == 10:
            return later(exchange)
        exchange.respond(200, [], exchange.query.encode())
        return None

    async with serving(handler) as served:
        peer = await served.open()
        for _ in range(2):
            peer.send(b"".join(request("GET", f"/?{number}") for number in range(PIPELINED_MAX)))
            found = [(await peer.response()).body.decode() for _ in range(PIPELINED_MAX)]
            assert found == [str(number) for number in range(PIPELINED_MAX)]
        assert tasks == ["10", "30", "50"] * 2


@pytest.mark.parametrize("responds", [True, False])
async def test_a_handler_that_fails_at_once(responds: bool) -> None:
    def handler(exchange: Exchange) -> None:
        if responds:
            exchange.start(200, []).offer(b"half")
        raise Mistake("with a secret")

    async with serving(handler) as served:
        peer = await served.open(GET + GET)
        if not responds:
            response = await peer.response()
            assert (response.status, response.headers["connection"]) == (500, "close")
            assert b"secret" not in response.body
        else:
            with pytest.raises(asyncio.IncompleteReadError):
                await peer.response()
        assert await peer.closed()


async def test_a_handler_that_forgets_to_answer_at_once() -> None:
    def handler(exchange: Exchange) -> None:
        """Does not respond."""

    async with serving(handler) as served:
        assert (await served.ask(GET)).status == 500


async def fails(exchange: Exchange) -> None:
    raise Mistake


async def answers_again(exchange: Exchange) -> None:
    with pytest.raises(RuntimeError):
        exchange.respond(500, [], b"")


async def starts_again(exchange: Exchange) -> None:
    with pytest.raises(RuntimeError):
        exchange.start(500, [])


async def gives_up(exchange: Exchange) -> None:
    raise ClientGone


@pytest.mark.parametrize("then", [fails, answers_again, starts_again, gives_up])
@pytest.mark.parametrize("headers", [[], [("content-length", "100")]], ids=["chunks", "length"])
async def test_a_truncated_response_closes_the_connection(
    then: Callable[[Exchange], Awaitable[None]], headers: HeaderList
) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start(200, headers).send(b"so far")
        await then(exchange)

    async with serving(handler) as served:
        peer = await served.open(GET + GET)
        with pytest.raises(asyncio.IncompleteReadError):
            await peer.response()
        assert await peer.end() == b"", "nothing follows"
        raw = await (await served.open(GET)).end()
        assert raw.endswith(b"6\r\nso far\r\n" if not headers else b"\r\nso far")
        if not headers:
            with pytest.raises(ConnectionResetError):  # its end could not be distinguished from a complete response
                await (await served.open(OLD)).end()


async def test_a_response_shorter_or_longer_than_declared() -> None:
    async with serving(streamed([("content-length", "10")], b"short")) as served:
        with pytest.raises(asyncio.IncompleteReadError):
            await served.ask(GET)
    async with serving(streamed([("content-length", "3")], b"long", b"er")) as served:
        raw = await (await served.open(GET)).end()
        assert raw.endswith(b"\r\n\r\n"), "nothing that could be taken for the next response"


async def test_a_canceled_handler_ends_its_connection() -> None:
    tasks = []

    async def handler(exchange: Exchange) -> None:
        tasks.append(asyncio.current_task())
        if exchange.path == "/stream":
            await exchange.start(200, []).send(b"x")
        await asyncio.Event().wait()

    async with serving(handler) as served:
        for path in ("/", "/stream"):
            peer = await served.open(request("GET", path))
            await until(lambda: tasks)
            task = tasks.pop()
            assert task is not None
            task.cancel()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await peer.response()


# --- clients that do not read -----------------------------------------------------------------------------------------

CHUNK = b"x" * 65_536


class Flood:
    """A handler that sends endlessly, as fast as possible."""

    def __init__(self) -> None:
        self.sent = 0
        self.ended: BaseException | None = None

    async def __call__(self, exchange: Exchange) -> None:
        try:
            stream = exchange.start(200, [])
            while True:
                await stream.send(CHUNK)
                self.sent += len(CHUNK)
        except ClientGone as error:
            self.ended = error
            raise

    async def stalled(self) -> int:
        """Wait until it is blocked; the number of bytes sent by then."""
        before = -1
        while self.sent != before or not self.sent:
            before = self.sent
            await asyncio.sleep(0.05)
        return self.sent


def waiting_bytes(served: object) -> int:
    """Response bytes that the server buffers for all connections."""
    connections = served.server._state.connections  # type: ignore[attr-defined]
    return sum(connection._transport.get_write_buffer_size() for connection in connections)


async def test_a_stream_waits_for_its_reader() -> None:
    flood = Flood()
    async with serving(flood) as served:
        peer = await served.open(GET)
        stalled = await flood.stalled()
        assert waiting_bytes(served) <= WRITE_HIGH + 2 * len(CHUNK)
        taken = 0
        while flood.sent < stalled + (8 << 20):  # it continues as soon as the client reads
            taken += len(await asyncio.wait_for(peer.reader.read(1 << 20), 5))
        assert taken > 1 << 20
        peer.writer.transport.abort()
        await until(lambda: flood.ended)


@pytest.mark.parametrize("path", ["stream", "whole"])
async def test_a_client_that_never_reads_is_disconnected(path: str) -> None:
    flood = Flood()
    handler: Handler = flood if path == "stream" else whole(200, [], b"x" * (64 << 20))
    async with serving(handler, write_seconds=0.2) as served:
        await served.open(GET)
        if path == "stream":
            await until(lambda: flood.ended)
        else:
            await until(lambda: served.server._state.connections)
        await until(lambda: not served.server._state.connections)


async def test_pipelined_requests_of_a_client_that_does_not_read_are_not_started() -> None:
    recorder = Recorder()

    async def handler(exchange: Exchange) -> None:
        recorder.exchanges.append(exchange)
        exchange.respond(200, [], b"x" * (16 << 20))

    async with serving(handler) as served:
        peer = await served.open(GET * 5)
        await until(lambda: recorder.exchanges)
        for _ in range(20):
            peer.send(GET)
            await asyncio.sleep(0.005)
        assert len(recorder.exchanges) == 1
        for _ in range(5):
            assert len((await peer.response()).body) == 16 << 20


async def test_a_slow_reader_is_not_cut_as_long_as_it_reads() -> None:
    async with serving(whole(200, [], b"x" * (48 << 20))) as served:
        slow = socket.create_connection(("127.0.0.1", served.server.port))
        slow.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(slow, request(Connection="close"))
        await until(lambda: served.server._state.connections)
        connection = served.connection()
        await until(lambda: connection.life.ending)
        unsent, times_up, got = connection.write_buffer._unsent, 0, 0
        while data := await loop.sock_recv(slow, 1 << 17):
            got += len(data)
            left = connection._transport.get_write_buffer_size()
            if 0 < left <= unsent - PROGRESS_BYTES:
                connection.expire(connection.deadline + 1)  # as if its deadline had passed
                unsent, times_up = left, times_up + 1
        slow.close()
        assert got > 48 << 20
        assert times_up > 3
