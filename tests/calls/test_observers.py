"""Logging and metrics may not raise between the commit of a charge and the last byte of its response."""

import asyncio
import os
import sys
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from farebox import logs
from farebox.http.exchange import HeaderList
from farebox.http.server.headers import header_lines, sendable
from farebox.jobs import Jobs
from farebox.metrics.metrics import Metrics
from farebox.periodic_jobs import Periodic, _every
from farebox.runtime.observers import best_effort
from farebox.runtime.waiters import Waiters
from farebox.storage.sql import DatabaseUnavailable
from tests.calls.kit import differences, log_row, price_of
from tests.calls.wire import chat_body, post
from tests.engines import ON_BOTH_ENGINES
from tests.support import Customer
from tests.waiting import eventually

pytestmark = ON_BOTH_ENGINES

COST = price_of(2, 5)


class Broken:
    """A logger whose methods all raise; counts its calls."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.of_jobs: list[tuple[object, str]] = []

    def __getattr__(self, name: str) -> Any:
        def say(event: str, **values: object) -> None:
            self.lines.append(event)
            self.of_jobs.append((values.get("job"), event))
            raise OSError(28, "No space left on device")

        return say


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Broken:
    """Break every logger, the metrics of calls, and the waking of calls that wait for money."""
    logger = Broken()
    for name, module in list(sys.modules.items()):
        if name.startswith("farebox.") and hasattr(getattr(module, "log", None), "warning"):
            monkeypatch.setattr(module, "log", logger)

    def wake(self: Waiters, account_id: str) -> None:
        logger.lines.append("wake")
        raise RuntimeError("broken")

    def call_ended(self: Metrics, provider: str, outcome: str, **values: object) -> None:
        logger.lines.append("metrics")
        raise MemoryError

    monkeypatch.setattr(Waiters, "wake", wake)
    monkeypatch.setattr(Metrics, "call_ended", call_ended)
    return logger


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_charged_call_gets_its_response_if_observers_fail(
    customer: Customer, broken: Broken, stream: bool
) -> None:
    more: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    body = chat_body(max_tokens=50, **more)
    response = await post(customer, body, demo="tokens=5")
    assert (response.status, response.whole) == (200, True)
    if stream:
        assert response.events[-1] == "[DONE]"
    assert {"call", "wake", "metrics"} <= set(broken.lines)
    assert log_row(customer, response.log_id)["farebox"]["charge_nanos"] == COST
    assert (customer.balance.posted, customer.balance.held) == (5_000_000_000 - COST, 0)
    assert differences(customer.farebox) == []


@pytest.mark.parametrize("demo", ["usage=absurd", "nousage_stream=1", "cut=2"])
async def test_an_unusual_call_survives_failing_observers(customer: Customer, broken: Broken, demo: str) -> None:
    """A charge above its hold, missing usage, a response that broke off: each writes its own log lines."""
    response = await post(customer, chat_body(max_tokens=50, stream=True), demo=demo)
    assert response.status == 200
    assert "observer failed" in broken.lines
    assert customer.balance.held == 0
    assert differences(customer.farebox) == []


async def test_a_refused_call_has_its_own_response(customer: Customer, broken: Broken) -> None:
    response = await post(customer, b"{", demo="tokens=5")
    assert (response.status, response.code) == (400, 2901)


async def test_a_job_whose_failure_cannot_be_logged_is_restarted(customer: Customer, broken: Broken) -> None:
    services, turns = customer.farebox.services, 0
    failures: list[Exception] = [ValueError("a mistake"), DatabaseUnavailable("away"), DatabaseUnavailable("away")]

    async def job(_: Any) -> None:
        nonlocal turns
        turns += 1
        if failures:
            raise failures.pop(0)

    jobs = Jobs()
    task = asyncio.ensure_future(jobs.keep({"job": partial(_every, services, "job", Periodic(0.0, job))}))
    await eventually(lambda: turns >= 5, "the job goes on")
    task.cancel()
    assert jobs.restarts == {("job", "ValueError"): 1}
    lines = [line for job, line in broken.of_jobs if job == "job"]
    assert lines == ["periodic job failed", "periodic job waits for the database"]


def test_observers_do_not_swallow_cancellation() -> None:
    with pytest.raises(asyncio.CancelledError), best_effort("a test"):
        raise asyncio.CancelledError


def test_a_slow_log_reader_does_not_delay_each_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would slow down all calls."""

    class Poll:
        waits: ClassVar[list[int]] = []

        def poll(self, wait: int) -> bool:
            """A waiting writer takes a freed slot."""
            self.waits.append(wait)
            return wait > 0

    reading, writing = os.pipe()
    with open(reading, "rb", 0) as read, open(writing, "w") as stream:
        sink = logs.LogSink(stream, lost_line=lambda lost: b"%d lost" % lost, kept=False)
        monkeypatch.setattr(sink, "_poll", Poll())
        monkeypatch.setattr(sink, "_clock", SimpleNamespace(monotonic=lambda: 0.0))
        for number in range(5):
            sink.line(f"line {number}")
        assert [wait for wait in Poll.waits if wait] == [logs._WAIT_MS]
        assert read.read(100) == b"line 0\n"


def test_lines_of_one_turn_of_the_loop_are_written_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, complete, and at most as much in one write as a pipe takes atomically; lines that are written
    immediately come after them."""
    writes = list[bytes]()

    def write(_descriptor: int, data: bytes) -> int:
        if b"full" in data:
            raise BlockingIOError
        writes.append(data)
        return len(data)

    async def turns(sink: logs.LogSink) -> None:
        for line in (b"a", b"b" * 2000, b"c" * 3000):
            sink.line_soon(line)
        assert writes == []
        await asyncio.sleep(0)
        assert writes == [b"a\n" + b"b" * 2000 + b"\n", b"c" * 3000 + b"\n"]
        writes.clear()
        sink.line_soon(b"d")
        sink.line("e")
        await asyncio.sleep(0)
        sink.line_soon(b"f full")
        sink.line_soon(b"g")
        await asyncio.sleep(0)

    async def overtaken(sink: logs.LogSink) -> None:
        """A thread that has taken all waiting lines and is about to write them."""
        sink._waiting.append(b"of a thread")
        sink.line_soon(b"k")
        sink._waiting.popleft()
        await asyncio.sleep(0)

    reading, writing = os.pipe()
    with open(reading, "rb", 0), open(writing, "w") as stream:
        sink = logs.LogSink(stream, lost_line=lambda lost: b"%d lost" % lost, kept=False)
        monkeypatch.setattr(os, "write", write)
        asyncio.run(turns(sink))
        sink.line_soon(b"h")  # without a running loop
        asyncio.run(overtaken(sink))
        monkeypatch.undo()
    assert writes == [b"d\ne\n", b"2 lost\n", b"h\n", b"k\n"]


def test_headers_that_cannot_be_sent_are_left_out() -> None:
    headers: HeaderList = [("a", "b"), ("bad", "x\r\ny"), ("connection", "close"), ("héhé", "x"), ("c", "\u20ac")]
    assert sendable(headers) == [("a", "b")]
    header_lines(sendable(headers))
