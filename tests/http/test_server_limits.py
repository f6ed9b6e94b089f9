"""Deadlines, numbers of connections, starting and stopping."""

import asyncio
import resource
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

import pytest

from farebox.http.exchange import ClientGone, Exchange
from farebox.http.server import AddressInUse, reserve, serve
from farebox.http.server.connection import ClientConnection
from farebox.http.server.state import INTAKE_BURST, INTAKE_BYTES_A_SECOND, Limits, ServerState
from tests.http.serving import Peer, Recorder, request, serving, until

GET = request()


@pytest.mark.parametrize("sent", [b"G", b"GET / HTTP/1.1\r\nHost: h\r\n", GET + b"GET /", b"\r\n"])
async def test_a_head_that_does_not_arrive_is_answered_408(sent: bytes) -> None:
    async with serving(Recorder().echo, head_seconds=0.15) as served:
        peer = await served.open(sent)
        if sent.startswith(GET):
            assert (await peer.response()).status == 200
        assert (await peer.response()).status == 408
        assert await peer.closed()


async def test_a_head_that_trickles_gains_no_time() -> None:
    async with serving(Recorder().echo, head_seconds=0.3) as served:
        peer = await served.open(b"GET / HTTP/1.1\r\nHost: h\r\n")
        answered = asyncio.ensure_future(peer.response())
        for number in range(2000):
            peer.send(b"a: %d\r\n" % number)
            await asyncio.sleep(0.01)
            if answered.done():
                break
        assert answered.result().status == 408
        assert number < 99, "as many headers as are accepted"


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    async def handler(exchange: Exchange) -> None:
        await asyncio.sleep(0.6)
        exchange.respond(200, [], b"")

    async with serving(handler, idle_seconds=0.15, head_seconds=0.15) as served:
        peers = [await served.open(), await served.open(GET)]
        assert await peers[0].closed(), "it sent no request"
        assert (await peers[1].response()).status == 200
        assert await peers[1].closed()


async def test_a_refused_client_that_keeps_sending_is_disconnected() -> None:
    async with serving(Recorder().echo, linger_seconds=0.2) as served:
        peer = await served.open(b"nonsense\r\n\r\n")

        async def go_on() -> None:
            while True:
                peer.send(b"x" * 10_000)
                await peer.writer.drain()
                await asyncio.sleep(0.002)

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(go_on(), 5)


async def test_the_number_of_connections_is_limited() -> None:
    async with serving(Recorder().echo, connections=3) as served:
        peers = [await served.open(GET) for _ in range(3)]
        for peer in peers:
            assert (await peer.response()).status == 200
        response = await served.ask(b"")
        assert (response.status, response.headers["connection"]) == (503, "close")
        peers[0].writer.close()
        await until(lambda: len(served.server._state.connections) == 2)
        assert (await served.ask(GET)).status == 200


async def test_connections_leave_half_of_the_file_descriptors_free() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        server = await serve(Recorder().echo, "127.0.0.1")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    peers = [Peer(*await asyncio.open_connection("127.0.0.1", server.port)) for _ in range(101)]
    assert (await peers[-1].response()).status == 503
    peers[0].send(GET)
    assert (await peers[0].response()).status == 200
    for peer in peers:
        peer.writer.close()
    await server.close()


async def test_closed_connections_leave_no_state() -> None:
    async with serving(Recorder().echo) as served:
        for number in range(30):
            peer = await served.open(GET if number % 3 else b"GET", b"x" * (number % 2))
            if number % 3:
                await peer.response()
            peer.writer.transport.abort()
        await until(lambda: not served.server._state.connections)


async def test_small_packets_leave_at_once() -> None:
    """Without waiting for acknowledgement of earlier ones (Nagle's algorithm)."""
    found: list[int] = []

    async def handler(exchange: Exchange) -> None:
        connection = served.connection()
        sock = connection._transport.get_extra_info("socket")
        found.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        exchange.respond(200, [], b"")

    async with serving(handler) as served:
        await served.ask(GET)
        assert found[0]


# --- stopping ---------------------------------------------------------------------------------------------------------


async def test_a_stop_finishes_what_is_in_flight_and_closes_the_rest() -> None:
    go, recorder = asyncio.Event(), Recorder()

    async def handler(exchange: Exchange) -> None:
        recorder.exchanges.append(exchange)
        await go.wait()
        exchange.respond(200, [], b"finished")

    async with serving(handler) as served:
        idle, busy = await served.open(), await served.open(GET + GET)
        half = await served.open(b"GET / HTTP/1.1\r\n")
        await until(lambda: recorder.exchanges)
        closing = asyncio.ensure_future(served.server.close())
        assert await idle.closed()
        assert await half.closed()
        with pytest.raises(ConnectionRefusedError):
            await served.open()
        assert not closing.done()
        go.set()
        response = await busy.response()
        assert (response.body, response.headers["connection"]) == (b"finished", "close")
        assert await busy.closed()
        await asyncio.wait_for(closing, 5)
        assert len(recorder.exchanges) == 1, "the requests behind it were not started"


async def test_a_stop_does_not_wait_forever() -> None:
    begun, gone = [], []

    async def handler(exchange: Exchange) -> None:
        begun.append(exchange)
        if exchange.path == "/whole":
            exchange.respond(200, [], b"x" * (64 << 20))
            return
        try:
            stream = exchange.start(200, [])
            while exchange.path == "/flood":
                await stream.send(b"x" * 65_536)
            await asyncio.Event().wait()
        except (ClientGone, asyncio.CancelledError) as error:
            gone.append(error)
            raise

    async with serving(handler) as served:
        peers = [await served.open(request("GET", path)) for path in ("/flood", "/hang", "/whole")]
        await until(lambda: len(begun) == 3)
        await asyncio.wait_for(served.server.close(), 5)
        await until(lambda: not served.server._state.connections)
        assert len(gone) == 2
        for peer in peers:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await peer.response()


async def test_a_port_belongs_to_one_server() -> None:
    reserved = reserve("127.0.0.1", 0)
    port = reserved.getsockname()[1]
    first = await serve(Recorder().echo, "127.0.0.1", reserved=reserved)
    assert first.port == port
    with pytest.raises(AddressInUse, match="choose another"):
        reserve("127.0.0.1", port)
    for shared in (False, True):
        with pytest.raises(AddressInUse, match="choose another"):
            await serve(Recorder().echo, "127.0.0.1", port, shared=shared)
    await first.close()
    again = await serve(Recorder().echo, "127.0.0.1", port)
    await again.close()


async def test_one_of_two_servers_on_a_port_listens() -> None:
    one = reserve("127.0.0.1", 0)
    with reserve("127.0.0.1", one.getsockname()[1]) as other:
        first = await serve(Recorder().echo, "127.0.0.1", reserved=one)
        with pytest.raises(AddressInUse, match="choose another"):
            await serve(Recorder().echo, "127.0.0.1", reserved=other)
        await first.close()


async def test_a_port_may_be_shared() -> None:
    """By processes that allow it, on a port that another process reserves."""
    recorder = [Recorder(), Recorder()]
    with reserve("127.0.0.1", 0) as reserved:
        servers = [await serve(one.echo, "127.0.0.1", reserved=reserved, shared=True) for one in recorder]
        assert servers[0].port == servers[1].port == reserved.getsockname()[1]
        for _ in range(200):
            peer = Peer(*await asyncio.open_connection("127.0.0.1", servers[0].port))
            peer.send(GET)
            assert (await peer.response()).status == 200
            peer.writer.close()
            await peer.writer.wait_closed()
            if all(one.exchanges for one in recorder):
                break
        assert all(one.exchanges for one in recorder)
        for server in servers:
            await server.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", servers[0].port)


async def test_a_connection_that_is_reset_before_it_is_accepted() -> None:
    async with serving(Recorder().echo) as served:
        for _ in range(20):
            sock = socket.create_connection(("127.0.0.1", served.server.port))
            sock.sendall(GET + b"nonsense\r\n\r\n")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        assert (await served.ask(GET)).status == 200
        await until(lambda: len(served.server._state.connections) <= 1)


class _SteppedLoop:
    """A loop whose time and callbacks the test controls."""

    def __init__(self) -> None:
        self.now = 100.0
        self.soon: list[Callable[[], None]] = []
        self.later: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        self.later.append((self.now + delay, callback))

    def step(self) -> None:
        if self.soon:
            self.soon.pop(0)()
        else:
            self.now, callback = self.later.pop(0)
            callback()


class _Sender:
    """A connection that sends as much as possible whenever it is read."""

    def __init__(self, state: ServerState) -> None:
        self.state = state
        self.sent = 0

    def rested(self) -> None:
        self.sent += 256 * 1024
        self.state.rest(cast(ClientConnection, self), 256 * 1024)


def test_large_senders_are_read_in_turn_at_a_bounded_rate() -> None:
    loop = _SteppedLoop()
    state = ServerState(cast(Any, None), cast(Any, loop), cast(Any, None), Limits())
    senders = [_Sender(state) for _ in range(3)]
    began = loop.now
    for sender in senders:
        sender.rested()
    while loop.now < began + 1:
        loop.step()
    sent = sum(sender.sent for sender in senders)
    assert INTAKE_BYTES_A_SECOND <= sent <= INTAKE_BYTES_A_SECOND + INTAKE_BURST + 4 * 256 * 1024
    assert max(sender.sent for sender in senders) - min(sender.sent for sender in senders) <= 256 * 1024
    loop.now += 60  # a pause accumulates no more than a burst
    before, paused = sum(sender.sent for sender in senders), loop.now
    while loop.now == paused:
        loop.step()
    assert sum(sender.sent for sender in senders) - before <= INTAKE_BURST + 4 * 256 * 1024
