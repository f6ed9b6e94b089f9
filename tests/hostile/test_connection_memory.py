"""Memory of connections before authentication and after responses: counted and bounded."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.errors import Problem
from farebox.http.exchange import Exchange
from farebox.http.server.state import PROGRESS_BYTES
from farebox.limits.byte_budget import UNCLAIMED, ByteBudget
from tests.http.serving import Peer, Recorder, Served, request, serving, until

KIB = 2**10
UNFINISHED = b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"x" * 30 * KIB
LARGE = 48 * 2**20  # more than the system's buffers for unread data: 4 MiB to send and 32 MiB received


@pytest.fixture
async def budget() -> AsyncIterator[ByteBudget]:
    """A budget of one mebibyte, an eighth of which is for unauthenticated data. Checks at the end that all was
    returned."""
    budget = ByteBudget(1024 * KIB, 512 * KIB)
    yield budget
    await until(lambda: budget.held_bytes == 0)
    assert budget.by_account == {}


async def test_unfinished_heads_fill_no_more_than_their_share(budget: ByteBudget) -> None:
    async with serving(Recorder().echo, budget=budget) as served:
        peers: list[Peer] = []
        for number in range(1, 5):
            peers.append(await served.open(UNFINISHED))
            await until(lambda number=number: budget.held_bytes == number * len(UNFINISHED))  # type: ignore[misc]
        late = await served.open(UNFINISHED)
        assert (await late.response()).status == 503
        assert budget.by_account == {UNCLAIMED: 4 * len(UNFINISHED)}
        assert (await served.ask(request())).status == 200, "an ordinary head does not count"
        peers[0].send(b"\r\n\r\n")
        assert (await peers[0].response()).status == 200
        await until(lambda: budget.held_bytes == 3 * len(UNFINISHED))
        sock = peers[1].writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peers[1].writer.transport.abort()  # a reset without a clean end
        await until(lambda: budget.held_bytes == 2 * len(UNFINISHED))


async def test_waiting_pipelined_requests_are_counted(budget: ByteBudget) -> None:
    opened = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await opened.wait()
        exchange.respond(200, [], b"")

    ahead = b"".join(b"GET / HTTP/1.1\r\nHost: h\r\nA: %b\r\n\r\n" % (b"x" * 10 * KIB) for _ in range(10))
    async with serving(handler, budget=budget) as served:
        peer = await served.open(request() + ahead)
        await until(lambda: budget.held_bytes > 0)
        greedy = await served.open(request() + ahead)
        assert await greedy.closed()
        opened.set()
        for _ in range(11):
            assert (await peer.response()).status == 200


async def test_an_unread_response_is_counted_until_it_is_read(budget: ByteBudget) -> None:
    async def handler(exchange: Exchange) -> None:
        lease = budget.lease("someone")
        exchange.hold(lease)
        if not lease.room_for(300 * KIB):
            exchange.respond(503, [], b"")
        else:
            exchange.respond(200, [], bytes(LARGE))

    budget.process_max, budget.account_max = 64 * LARGE, LARGE + 400 * KIB
    async with serving(handler, budget=budget) as served:
        slow = await served.open(request())
        # The handler has returned what it held, and the system has not taken the whole response.
        await until(lambda: 400 * KIB < budget.held_bytes <= LARGE + 1 * KIB)
        greedy = await served.open(request())
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await greedy.response()  # there is no room for a second response of its account
        assert len((await slow.response()).body) == LARGE
        await until(lambda: budget.held_bytes == 0)


async def test_an_awaited_body_must_keep_arriving(budget: ByteBudget) -> None:
    exchanges: list[Exchange] = []
    problems: list[str] = []

    async def handler(exchange: Exchange) -> None:
        exchanges.append(exchange)
        exchange.hold(budget.lease("someone"))
        try:
            await exchange.body(2**20)
        except Problem as problem:
            problems.append(problem.kind.name)
            exchange.respond(problem.kind.status, [], b"")

    async with serving(handler, budget=budget) as served:
        peer = await served.open(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n")
        await until(lambda: budget.held_bytes == 200_000)
        connection = served.connection()
        now = asyncio.get_running_loop().time()
        assert now < connection.deadline < now + 60
        for come in (PROGRESS_BYTES, 2 * PROGRESS_BYTES):
            peer.send(b"x" * PROGRESS_BYTES)
            await until(lambda come=come: exchanges[0].received == come)  # type: ignore[misc,attr-defined]
            connection.expire(connection.deadline + 1)  # as if its deadline had passed
            assert not problems
        peer.send(b"x" * (PROGRESS_BYTES - 1))
        await until(lambda: exchanges[0].received == 3 * PROGRESS_BYTES - 1)  # type: ignore[attr-defined]
        connection.expire(connection.deadline + 1)
        assert ((await peer.response()).status, problems) == (408, ["body_late"])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["head", "body", "chunks", "ahead", "slow"]), st.integers(0, 90_000))))
async def test_ended_connections_return_all_their_memory(steps: list[tuple[str, int]]) -> None:
    budget = ByteBudget(512 * KIB, 256 * KIB)

    async def handler(exchange: Exchange) -> None:
        try:
            exchange.hold(budget.lease("someone"))
            body = await exchange.body(80_000)
        except Problem as problem:
            exchange.respond(problem.kind.status, [], b"")
        else:
            exchange.respond(200, [], body * 10)

    async def one(served: Served, kind: str, size: int) -> None:
        filling = b"x" * size
        sent = {
            "head": b"GET / HTTP/1.1\r\nHost: h\r\nA: " + filling[:60_000],
            "body": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 70000\r\n\r\n" + filling,
            "chunks": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\nx%b\r\n"
            % (size + 1, filling),
            "ahead": request() * (1 + size // 10_000),
            "slow": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (size, filling),
        }[kind]
        peer = await served.open(sent)
        if size % 2:
            peer.writer.transport.abort()
        elif kind == "slow":
            await peer.response()

    async with serving(handler, budget=budget) as served:
        await asyncio.gather(*(one(served, kind, size) for kind, size in steps), return_exceptions=True)
    await until(lambda: budget.held_bytes == 0)
    assert budget.by_account == {}
