"""However a call ends, its hold ends too, and the known usage is charged."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from farebox import app, periodic_jobs
from farebox.calls.relaying import drain, relay
from farebox.calls.watch import Interrupted, Watch, Watches
from farebox.ledger.commands import Command, Hold, Verdict
from tests.calls.gate import SLUG as GATED
from tests.calls.gate import gated
from tests.calls.kit import differences, log_row, log_rows, price_of, set_price, set_provider
from tests.calls.wire import post, start
from tests.clocks import Ahead
from tests.engines import ON_BOTH_ENGINES
from tests.support import Customer, Farebox, running_farebox, running_on
from tests.waiting import eventually, until

pytestmark = ON_BOTH_ENGINES

FIVE = 5 * 10**9
GATE_PATH = f"{GATED}/chat/completions"


def body(model: str = "gate-1", **fields: Any) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello there"}], **fields}).encode()


@contextlib.asynccontextmanager
async def speaking(farebox: Farebox, said: bytes, *, hangs: bool) -> AsyncIterator[list[int]]:
    """A provider, as Groq, that sends `said` to every request, and then hangs or breaks off. Yields the requests."""
    seen: list[int] = []
    writers: list[asyncio.StreamWriter] = []

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", head)
        await reader.readexactly(int(found.group(1)) if found else 0)
        seen.append(1)
        writer.write(said)
        with contextlib.suppress(OSError):
            await writer.drain()
            if hangs:
                await reader.read()
        writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    set_provider(farebox, "groq", base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    set_price(farebox, "groq", "cut-1", output_max=100)
    try:
        yield seen
    finally:
        server.close()
        for writer in writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9999\r\n\r\n"


def event(finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": "Yes, it is so."}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


# The server stops


async def test_calls_that_the_server_cuts_when_it_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are settled at the stop, not left to the next start, which would charge their whole holds here."""
    monkeypatch.setattr(app, "GRACE_SECONDS", 0.01)
    drained, drain_response = [], relay._Relay._drain_response

    async def watched(self: Any, cut: str) -> str | None:
        drained.append(1)
        return await drain_response(self, cut)

    monkeypatch.setattr(relay._Relay, "_drain_response", watched)
    callers: dict[str, tuple[Customer, int]] = {}
    with running_farebox(tmp_path, in_doubt="charge", helper_processes=1) as farebox:
        # Start the counting helper beforehand: on a busy machine that may take longer than a stop.
        await post(farebox.funded("5"), body("demo-1"), "demo/chat/completions", demo="usage=none")
        async with contextlib.AsyncExitStack() as stack:
            for how, says in (
                ("in the midst of a stream", HEAD + event()),
                ("as its client has left", HEAD + event("stop")),
                ("before it begins", b""),
            ):
                seen = await stack.enter_async_context(speaking(farebox, says, hangs=True))
                customer = farebox.funded("5")
                wire = await start(customer, body("cut-1", stream=True), "groq/chat/completions")
                stack.callback(wire.close)
                await eventually(lambda seen=seen: seen, "the provider has it")  # type: ignore[misc]
                if says:
                    await wire.head()
                    await wire.until(b"it is so")
                callers[how] = customer, customer.balance.held
                if how == "as its client has left":
                    wire.hang_up()
            await eventually(lambda: drained, "the gateway reads on")
            await asyncio.get_running_loop().run_in_executor(None, farebox.stop)
    with running_farebox(tmp_path, in_doubt="charge") as farebox:
        for how, (caller, hold) in callers.items():
            customer = Customer(farebox, caller.account_id, caller.token)
            [row] = log_rows(customer)
            paid = FIVE - customer.balance.posted
            assert (customer.balance.held, row["farebox"]["error"]) == (0, "the server stopped"), how
            assert paid == row["farebox"]["charge_nanos"] < hold
            if how == "before it begins":
                assert (paid, row["farebox"]["outcome"]) == (0, "released")
            else:
                assert price_of(0, 3) < paid < price_of(30, 10), how
                assert customer.receipt(row["id"])["policy"] == "the server stopped: counted from what was delivered"
        assert differences(farebox) == []


# Usage reported before an interruption


@pytest.mark.parametrize("finish", [None, "stop"], ids=["unfinished", "finished"])
@pytest.mark.parametrize("by", ["provider", "client"])
async def test_usage_reported_before_an_interruption_is_charged(
    customer: Customer, by: str, finish: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report has a thousand input tokens, which the request's text does not have, and more output than was
    delivered."""
    monkeypatch.setattr(drain, "DRAIN_SECONDS", 0.2)
    usage = {"prompt_tokens": 1_000, "completion_tokens": 70, "total_tokens": 1_070}
    async with speaking(customer.farebox, HEAD + event(finish, usage=usage), hangs=by == "client"):
        wire = await start(customer, body("cut-1", stream=True), "groq/chat/completions")
        await wire.head()
        await wire.until(b"it is so")
        if by == "client":
            wire.hang_up()
        await eventually(lambda: log_rows(customer), "the row")
        wire.close()
    assert (customer.balance.held, FIVE - customer.balance.posted) == (0, price_of(1_000, 70))
    assert customer.receipt(log_rows(customer)[0]["id"])["policy"].endswith(": counted from what was delivered")


# How long a hold lives


async def test_a_hold_expires_a_minute_after_the_longest_duration_of_its_call(tmp_path: Path) -> None:
    clock = Ahead()
    with running_on(uvloop.new_event_loop, clock, tmp_path) as farebox, gated(farebox) as gate:
        customer = farebox.funded("5")
        call = asyncio.ensure_future(post(customer, body(), GATE_PATH))
        await eventually(lambda: gate.waiting == 1, "the provider has it")
        hold = customer.balance.held
        longest = farebox.services.settings.call_timeout_ms
        assert (longest, hold > 0) == (1_800_000, True)
        for minutes, held in ((2, hold), (29, hold), (30.9, hold), (31.1, 0)):
            clock.ahead_ms = round(minutes * 60_000)
            farebox.run(periodic_jobs._expire_due(farebox.services))
            assert customer.balance.held == held, minutes
        gate.open()
        response = await call
        assert response.status == 200
        assert FIVE - customer.balance.posted == price_of(10, 20)
        assert customer.receipt(response.log_id)["notes"] == ["the hold had expired before the charge"]


# A lost verdict


async def test_a_hold_of_a_canceled_caller_is_released(customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, held = type(customer.farebox.services.ledger), []
    do = ledger.do

    async def slow(self: Any, command: Command) -> Verdict:
        verdict: Verdict = await do(self, command)
        if isinstance(command, Hold) and command.account_id == customer.account_id:
            held.append(command)
            await asyncio.get_running_loop().create_future()
        return verdict

    monkeypatch.setattr(ledger, "do", slow)
    before = customer.farebox.demo_stats()["requests"]
    wire = await start(customer, body("demo-1"), "demo/chat/completions")
    await eventually(lambda: held, "the hold")
    assert customer.balance.held > 0
    wire.hang_up()
    await eventually(lambda: log_rows(customer), "the row")
    [row] = log_rows(customer)
    assert (row["farebox"]["outcome"], row["farebox"]["charge_nanos"]) == ("released", 0)
    assert (customer.balance.held, customer.balance.posted) == (0, FIVE)
    assert customer.farebox.demo_stats()["requests"] == before


# Holds of service tiers


@pytest.fixture
def tiered(farebox: Farebox) -> Customer:
    set_provider(farebox, "openai")
    return farebox.funded("5")


def held_for(customer: Customer, tier: str, padding: str) -> int:
    """The hold of a request with this tier; padding makes all requests equally long."""
    response = httpx.post(
        f"{customer.gateway_url}/openai/chat/completions",
        json={
            "model": "gpt-5-mini",
            "max_completion_tokens": 1000,
            "messages": [{"role": "user", "content": "Hello there" + padding}],
            "service_tier": tier,
        },
        headers=customer.headers | {"x-demo": "tokens=10"},
    )
    assert response.status_code == 200, response.text
    hold: int = customer.receipt(response.headers["cf-aig-log-id"])["hold_nanos"]
    return hold


def test_a_more_expensive_tier_is_held_at_its_own_price(tiered: Customer) -> None:
    standard = held_for(tiered, "default", "!")
    assert held_for(tiered, "flex", "!!!!") == standard, "the provider may not grant the cheaper tier"
    priority = held_for(tiered, "priority", "")
    assert priority * 10 == standard * 18, "priority costs 1.8 times as much, input and output"
    until(lambda: tiered.balance.held == 0, "the holds ended")
    assert log_row(tiered, log_rows(tiered)[0]["id"])["farebox"]["outcome"] == "charged"


# Watching for disconnects


def _watched() -> Watch:
    task = asyncio.current_task()
    assert task is not None
    return Watch(Watches(), task, 600)


async def test_a_disconnect_between_two_waits_is_noticed_at_the_next() -> None:
    watch = _watched()
    watch.leave()
    with pytest.raises(Interrupted, match="client_gone"), watch.waiting(600):
        pytest.fail("the client is gone")
    watch.close()


async def test_work_outside_a_wait_is_not_interrupted() -> None:
    """For example, a charge that is being written."""
    watch = _watched()
    with watch.waiting(600):
        pass
    watch.leave()
    await asyncio.sleep(0.01)
    with pytest.raises(Interrupted, match="client_gone"), watch.waiting(600):
        pytest.fail("the client is gone")
    watch.close()


async def test_an_interrupted_call_can_be_waited_with_again() -> None:
    """The task does not stay marked as canceled; otherwise a timeout could not be distinguished from a stop."""
    watch = _watched()
    loop = asyncio.get_running_loop()
    loop.call_soon(watch.leave)
    with pytest.raises(Interrupted, match="client_gone"), watch.waiting(600):
        await loop.create_future()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    watch.close()


async def test_one_timer_ends_each_wait_at_its_own_deadline() -> None:
    """The first wait is long, a later one short, and a third starts while the timer is set for another."""
    watches = Watches()

    async def wait(seconds: float) -> str:
        task = asyncio.current_task()
        assert task is not None
        watch = Watch(watches, task, 600)
        try:
            with watch.waiting(seconds):
                await asyncio.get_running_loop().create_future()
        except Interrupted as interrupted:
            return interrupted.reason
        finally:
            watch.close()
        return "nothing"

    long = asyncio.ensure_future(wait(600))
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        assert set(await asyncio.gather(wait(0.02), wait(0.01), wait(0.03))) == {"silence"}
        assert await wait(0.01) == "silence", "the timer fired early"
    assert len(watches.open) == 1
    assert not long.done()
    long.cancel()
