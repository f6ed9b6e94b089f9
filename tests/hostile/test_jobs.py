"""Background jobs are restarted, whatever ends them: an exception in the log, the clock or the database, or a
cancellation meant for another task. The process needs no restart, and hanging jobs are reported."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from farebox.clock import SystemClock
from farebox.http.exchange import Exchange
from farebox.http.server import Limits, serve
from farebox.http.server.connection import ClientConnection as ServedConnection
from farebox.jobs import Jobs
from farebox.periodic_jobs import periodic_jobs
from farebox.providers.http1 import connection, pool
from farebox.providers.upstream import UpstreamRequest
from farebox.runtime.operator_alarms import raise_alarm
from farebox.storage.journal_files import JournalFiles, JournalUnwritable
from farebox.storage.queues import QUEUES
from farebox.storage.sql import Connection, DatabaseUnavailable
from farebox.storage.sqlite import connect
from farebox.storage.sqlite.writer import Writer
from tests import processes
from tests.support import Farebox, free_port, running_on
from tests.waiting import eventually, until

both = pytest.mark.both_engines


class ShortClock(SystemClock):
    """A clock that sleeps for at most a tenth of a second, and fails while it is broken."""

    broken = False

    async def sleep(self, seconds: float) -> None:
        if self.broken:
            raise OSError("the clock is broken")
        await asyncio.sleep(min(seconds, 0.1))


@pytest.fixture(scope="module")
def clock() -> ShortClock:
    return ShortClock()


@pytest.fixture(scope="module")
def served(engine: str, clock: ShortClock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    async def nothing(*_: object, **__: object) -> None:
        """Replaces the nightly reconciliation with the payment processor, which takes long."""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("farebox.billing.reconcile.reconcile", nothing)
        patch.setattr("farebox.billing.processor_events.sweep_undelivered", nothing)
        with running_on(uvloop.new_event_loop, clock, tmp_path_factory.mktemp("jobs")) as farebox:
            yield farebox


class Silent:
    """A logger that does nothing. The default one of tests renders each traceback, which takes longer than all else
    here."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


@pytest.fixture(autouse=True)
def _at_once_and_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farebox.jobs.PAUSES", (0.05,))
    monkeypatch.setattr("farebox.jobs.log", Silent())


class Failing:
    """Replaces a logger or a method of the database: every call fails."""

    def __init__(self, error: type[Exception]) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self

    def __call__(self, *_: object, **__: object) -> Any:
        raise self._error("broken")


def names_of(farebox: Farebox) -> set[str]:
    return set(periodic_jobs(farebox.services))


def all_jobs_have_run(farebox: Farebox) -> None:
    """Wait until each job has started and finished another round."""

    async def rounds() -> dict[str, int]:
        return {name: id(one) for name, one in farebox.services.jobs._rounds.items() if one.ended}

    before = farebox.run(rounds())

    def again() -> bool:
        now = farebox.run(rounds())
        return all(name in now and now[name] != before.get(name) for name in names_of(farebox))

    until(again, "each job comes round")


def ended_by(farebox: Farebox, why: str) -> set[str]:
    return {name for name, reason in list(farebox.services.jobs.restarts) if reason == why}


@both
def test_the_clock_fails(served: Farebox, clock: ShortClock) -> None:
    clock.broken = True
    try:
        timed = names_of(served) - QUEUES  # those of the queues wait for the search, which is ended too
        until(lambda: ended_by(served, "OSError") >= timed, "each is ended by its clock")
    finally:
        clock.broken = False
    all_jobs_have_run(served)


@both
def test_jobs_survive_an_unexpected_database_error(served: Farebox, monkeypatch: pytest.MonkeyPatch) -> None:
    database = served.services.database
    for method in ("get", "scan", "write"):
        monkeypatch.setattr(database, method, Failing(LookupError))
    raise_alarm(served.services, "overrun", "so that there is something to write")
    until(lambda: ended_by(served, "LookupError") >= {"configuration", "expiry", "queues", "operator_alarms"}, "ended")
    monkeypatch.undo()
    all_jobs_have_run(served)


@both
def test_the_log_fails_while_the_database_is_away(served: Farebox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the outage nor the end of a job can be logged."""
    database = served.services.database
    for module in ("farebox.periodic_jobs", "farebox.jobs", "farebox.runtime.operator_alarms"):
        monkeypatch.setattr(f"{module}.log", Failing(ValueError))
    for method in ("get", "scan", "write"):
        monkeypatch.setattr(database, method, Failing(DatabaseUnavailable))
    raise_alarm(served.services, "overrun", "so that there is something to write")
    served.run(asyncio.sleep(0.2))
    for method in ("get", "scan", "write"):
        monkeypatch.setattr(database, method, Failing(LookupError))
    before = dict(served.services.jobs.restarts)
    until(lambda: served.services.jobs.restarts["expiry", "LookupError"] > before.get(("expiry", "LookupError"), 0))
    monkeypatch.undo()
    all_jobs_have_run(served)


@both
def test_canceled_jobs_are_restarted(served: Farebox) -> None:
    async def cancel() -> None:
        for task in asyncio.all_tasks():
            if task.get_name().startswith("job "):
                task.cancel()

    served.run(cancel())
    until(lambda: ended_by(served, "CancelledError") >= names_of(served), "each was cancelled")
    all_jobs_have_run(served)


def test_a_hanging_job_is_reported(served: Farebox) -> None:
    jobs, done = served.services.jobs, asyncio.Event()

    async def hang() -> None:
        with jobs.round("a job that hangs", 0.0):
            await done.wait()

    async def start() -> "asyncio.Task[None]":
        return asyncio.ensure_future(hang())

    async def end(task: "asyncio.Task[None]") -> None:
        done.set()
        await task

    hanging = served.run(start())
    until(lambda: httpx.get(f"{served.url}/readyz").json()["jobs_late"] == ["a job that hangs"], "the probe shows it")
    served.run(end(hanging))
    assert httpx.get(f"{served.url}/readyz").json()["jobs_late"] == []


_WITHOUT_JOBS = """
import farebox.app
async def end(services):
    raise LookupError("for good")
farebox.app.run_periodic_jobs = end
from farebox.cli.main import run
run()
"""


def test_a_process_whose_jobs_have_ended_for_good_ends(tmp_path: Path) -> None:
    arguments = ["--data-dir", str(tmp_path), "serve", "--port", str(free_port())]
    ended = processes.run(arguments, env=os.environ, program=_WITHOUT_JOBS)
    assert ended.returncode == 1
    assert "jobs have ended" in ended.stderr


# --- background work other than periodic jobs -------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "writer.db"
    connection = connect(path)
    connection.execute("CREATE TABLE numbers (n INTEGER PRIMARY KEY)")
    connection.close()
    return path


def insert(number: int) -> Callable[[Connection], int]:
    def job(connection: Connection) -> int:
        connection.execute("INSERT INTO numbers VALUES (?)", (number,))
        return number

    return job


@pytest.mark.parametrize("step", ["_run", "_commit", "_await_turn"])
async def test_the_writer_survives_any_failure(path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """On the loop or on its thread: the waiters of the batch get an error, and the next batch is written."""
    jobs = Jobs()
    writer = Writer(path, failed=jobs.failed)
    other = connect(path)
    if step == "_await_turn":
        other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(Writer, step, Failing(MemoryError))
    with pytest.raises(DatabaseUnavailable):
        await writer.run(insert(1))
    monkeypatch.undo()
    other.close()
    assert await writer.run(insert(2)) == 2
    assert jobs.restarts["sqlite_writer", "MemoryError"] == 1
    assert await writer.run(lambda c: [n for (n,) in c.execute("SELECT n FROM numbers")]) == [2]
    await writer.close()


async def test_the_writer_replaces_a_connection_that_cannot_roll_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that can be neither committed nor rolled back would block all writers forever."""
    writer = Writer(path)

    class Stuck:
        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def execute(self, sql: str, *values: Any) -> Any:
            if sql in ("COMMIT", "ROLLBACK"):
                raise MemoryError("no")
            return self._real.execute(sql, *values)

    monkeypatch.setattr(writer, "_connection", Stuck(writer._connection))
    with pytest.raises(MemoryError):
        await writer.run(insert(1))
    assert await writer.run(insert(2)) == 2
    assert await writer.run(lambda c: [n for (n,) in c.execute("SELECT n FROM numbers")]) == [2]
    await writer.close()


async def test_the_journal_survives_any_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = JournalFiles(tmp_path / "journal", "one")
    monkeypatch.setattr(JournalFiles, "_append", Failing(MemoryError))
    with pytest.raises(JournalUnwritable):
        await files.add(b"one")
    monkeypatch.undo()
    await files.add(b"two")
    await files.close()


async def test_the_sweeper_of_the_server_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    """One timer enforces all deadlines: a connection that cannot be closed does not stop it for the others."""
    failed: list[ServedConnection] = []
    jobs, expire = Jobs(), ServedConnection.expire

    def once(connection: ServedConnection, now: float) -> None:
        if not failed:
            failed.append(connection)
            raise LookupError("broken")
        expire(connection, now)

    async def nothing(exchange: Exchange) -> None: ...

    monkeypatch.setattr(ServedConnection, "expire", once)
    server = await serve(nothing, "127.0.0.1", limits=Limits(head_seconds=0.05), failed=jobs.failed)
    clients = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3)]
    state = server._state
    await eventually(lambda: len(state.connections) == 1, "the others were ended")
    assert jobs.restarts["http_sweeper", "LookupError"] == 1
    late = await asyncio.open_connection("127.0.0.1", server.port)
    await late[0].read()
    for _, writer in [*clients, late]:
        writer.close()
    await server.close()


@pytest.fixture
async def provider() -> AsyncIterator[str]:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


async def test_the_sweeper_of_the_pool_continues(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Jobs()
    monkeypatch.setattr(pool, "SWEEP_SECONDS", 0.01)
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.01)
    upstream = pool.PooledUpstream(connect_seconds=5, failed=jobs.failed)
    drop_old = upstream._drop_old
    monkeypatch.setattr(upstream, "_drop_old", Failing(LookupError))
    response = await upstream.send(UpstreamRequest("GET", f"{provider}/", [], b""))
    while await response.chunk() is not None:
        pass
    await response.close()
    await eventually(lambda: jobs.restarts["upstream_sweeper", "LookupError"] > 1, "it failed, and was tried again")
    monkeypatch.setattr(upstream, "_drop_old", drop_old)
    await eventually(lambda: not upstream._idle, "the unused connection is dropped")
    await upstream.close()
