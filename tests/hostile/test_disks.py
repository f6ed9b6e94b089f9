"""Broken disks: full, read-only, damaged, removed. No wrong charge, a truthful health check, and no restart."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import apsw
import asyncpg
import httpx
import msgspec
import pytest

from farebox.cli import server_file
from farebox.storage.operator_alarms import open_alarms
from farebox.storage.postgres import health
from farebox.storage.postgres.connecting import translate_errors
from farebox.storage.postgres.database import PostgresDatabase
from farebox.storage.sql import (
    Connection,
    DatabaseDamaged,
    DatabaseDiskFull,
    DatabaseFailing,
    DatabaseFull,
    DatabaseLocked,
    DatabaseUnavailable,
    row,
)
from farebox.storage.sqlite import connect
from farebox.storage.sqlite.writer import Writer
from tests import engines, processes
from tests.calls.kit import differences, log_row, price_of
from tests.calls.wire import Wire, chat_body
from tests.citus.cluster import CITUS
from tests.engines import SQLITE_ONLY
from tests.hostile.disks import Disk, small_disk
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import until

POSTGRES_ONLY = pytest.mark.skipif(engines.CHOSEN == "sqlite", reason="about PostgreSQL itself")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


def ready(farebox: Farebox) -> tuple[int, dict[str, Any]]:
    response = httpx.get(f"{farebox.url}/readyz")
    return response.status_code, response.json()


def until_ready(farebox: Farebox) -> None:
    until(lambda: ready(farebox)[0] == 200, "it is ready again")


def alarms(farebox: Farebox) -> set[tuple[str, str]]:
    return {(alarm.kind, alarm.about) for alarm in farebox.run(farebox.services.database.scan(open_alarms))}


async def begun(customer: Customer, demo: str, **more: Any) -> Wire:
    """A call that has a hold; if it streams, the provider has begun to answer."""
    wire, before = await Wire.open(customer.farebox.url), customer.balance.held
    headers = customer.headers | {"content-type": "application/json", "x-demo": demo}
    path = f"/v1/{customer.account_id}/default/compat/chat/completions"
    await wire.send(path, headers, chat_body("one two three", max_tokens=50, **more))
    if more.get("stream"):
        await wire.head()
        await wire.until(b"data: ")
    else:
        until(lambda: customer.balance.held > before, "it is held for, in addition to earlier calls")
    return wire


# --- a full disk ------------------------------------------------------------------------------------------------------


@SQLITE_ONLY
def test_a_full_disk_is_reported_by_the_health_check_and_charges_nobody(disk: Disk) -> None:
    with running_farebox(disk.folder) as farebox:
        customer = farebox.funded("5")
        assert customer.chat().status_code == 200
        assert ready(farebox)[1]["database"] == "ok"
        before = customer.balance
        disk.fill()
        refused = customer.chat()
        assert (refused.status_code, refused.json()["errors"][0]["code"]) == (503, 2913)
        status, body = ready(farebox)
        assert (status, body["status"], body["database"], body["journal"]) == (503, "unavailable", "full", "unwritable")
        assert "make room" in body["remedy"]
        assert httpx.get(f"{farebox.url}/healthz").status_code == 200
        disk.make_room()
        until_ready(farebox)
        assert ready(farebox)[1]["journal"] == "empty"
        until(lambda: customer.balance == before, "nothing is held for the refused call")
        assert customer.chat().status_code == 200
        until(lambda: ("database_trouble", "full") in alarms(farebox), "the operator is alerted")
        assert differences(farebox) == []


@SQLITE_ONLY
def test_the_health_check_sees_a_full_disk_before_any_call_does(disk: Disk) -> None:
    with running_farebox(disk.folder) as farebox:
        disk.fill()
        assert ready(farebox)[1]["database"] == "full"


@SQLITE_ONLY
@pytest.mark.parametrize("in_doubt", ["release", "charge"])
async def test_held_money_returns_when_there_is_room_again(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, in_doubt: str
) -> None:
    """Neither database nor journal can store the ends of two calls: their responses are not completed, their holds end
    by the operator's policy for calls in doubt, and no restart is needed."""
    monkeypatch.setattr("farebox.calls.persist.PERSIST_ATTEMPTS", 1)
    monkeypatch.setattr("farebox.runtime.journal.BATCH_SIZE", 1)
    with running_farebox(disk.folder, in_doubt=in_doubt) as farebox:
        customer = farebox.funded("5")
        before = customer.balance.posted
        stream = await begun(customer, "tokens=5 gap=300", stream=True, stream_options={"include_usage": True})
        whole = await begun(customer, "tokens=5 delay=1500")
        disk.fill()
        responses = await asyncio.gather(stream.response(), whole.response())
        assert responses[0].status == 200
        assert "[DONE]" not in responses[0].events, "a response whose charge is stored nowhere is not completed"
        assert responses[1].status == 503
        assert customer.balance.held > 0
        disk.make_room()
        until(lambda: customer.balance.held == 0, "held money returns")
        charged = 0 if in_doubt == "release" else 2 * price_of(3, 5)
        assert customer.balance.posted == before - charged
        for response in responses:
            row = log_row(customer, response.log_id)
            assert row["farebox"]["charge_nanos"] == charged // 2
            if in_doubt == "release":
                assert row["farebox"]["outcome"] == "released"
        assert differences(farebox) == []


@SQLITE_ONLY
def test_the_disk_becomes_full_again_and_again_under_load(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answered call is charged once, no refused call is charged, and nothing stays held."""
    monkeypatch.setattr("farebox.calls.persist.PERSIST_ATTEMPTS", 1)
    with running_farebox(disk.folder) as farebox:
        customer = farebox.funded("5")
        before, answered, stop = customer.balance.posted, [], threading.Event()

        def caller() -> None:
            while not stop.is_set():
                if customer.chat("one two three", headers={"x-demo": "tokens=5 delay=5"}).status_code == 200:
                    answered.append(1)

        callers = [threading.Thread(target=caller) for _ in range(3)]
        for thread in callers:
            thread.start()
        for _ in range(3):
            goal = len(answered) + 5
            until(lambda goal=goal: len(answered) >= goal, "calls are answered")  # type: ignore[misc]
            disk.fill()
            until(lambda: ready(farebox)[0] == 503, "it is full")
            disk.make_room()
        goal = len(answered) + 5
        until(lambda: len(answered) >= goal, "calls are answered")
        stop.set()
        for thread in callers:
            thread.join()
        until(lambda: customer.balance.held == 0, "nothing is held")
        assert customer.balance.posted == before - len(answered) * price_of(3, 5)
        assert differences(farebox) == []


@pytest.mark.both_engines
@pytest.mark.usefixtures("engine")
def test_an_unwritable_journal_is_reported_and_calls_are_served(tmp_path: Path) -> None:
    with small_disk(tmp_path / "journal", 1) as disk, running_farebox(tmp_path) as farebox:
        customer = farebox.funded("5")
        disk.fill()
        status, body = ready(farebox)
        assert (status, body["database"], body["journal"]) == (200, "ok", "unwritable")
        assert customer.chat().status_code == 200
        until(lambda: ("journal_unwritable", farebox.services.instance) in alarms(farebox), "the operator is alerted")
        disk.make_room()
        until(lambda: ready(farebox)[1]["journal"] == "empty", "it can be written again")


def serving_file(farebox: Farebox) -> None:
    """Write the file that `farebox serve` writes."""
    found = server_file.Serving(farebox.url, host="127.0.0.1", port=farebox.port)
    (Path(farebox.services.settings.data_dir) / server_file.FILE).write_bytes(msgspec.json.encode(found))


@SQLITE_ONLY
def test_status_reports_a_full_disk_on_which_no_alarm_could_be_written(disk: Disk) -> None:
    status = ("--data-dir", str(disk.folder), "status")
    with running_farebox(disk.folder) as farebox:
        serving_file(farebox)
        disk.fill()
        until(lambda: ready(farebox)[1]["journal"] == "unwritable", "the server knows")
        reported = command(*status).stdout
        assert (
            f"The server at {farebox.url} does not accept calls because its database is “full”: make room" in reported
        )
        assert "journal" in reported
        found = json.loads(command(*status, "--json").stdout)
        assert found["server"]["readiness"]["database"] == "full"
        assert found["alarms"] == []
        disk.make_room()
        until_ready(farebox)
        assert "The server" not in command(*status).stdout
    assert "does not respond" in command(*status).stdout, "its file remained: it was not `farebox serve`"


# --- a damaged database -----------------------------------------------------------------------------------------------


def root_page(path: Path, table: str) -> tuple[int, int]:
    """The offset and length of a table's first page in the file."""
    connection = connect(path)
    (page,) = row(connection, "SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)) or (0,)
    (size,) = row(connection, "PRAGMA page_size") or (0,)
    connection.close()
    return (page - 1) * size, size


def overwrite(path: Path, at: int, content: bytes) -> bytes:
    """Change the closed file; the previous content."""
    with path.open("r+b") as file:
        file.seek(at)
        before = file.read(len(content))
        file.seek(at)
        file.write(content)
    return before


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return processes.run(arguments, env=os.environ)


@SQLITE_ONLY
def test_a_damaged_page_is_reported_and_nothing_is_charged_wrongly(tmp_path: Path) -> None:
    """The call that reads it is charged once the page has been repaired; the next is refused, or journaled too."""
    path = tmp_path / "farebox.db"
    with running_farebox(tmp_path) as farebox:
        customer = farebox.funded("5")
    at, size = root_page(path, "transfers")
    whole = overwrite(path, at, b"\xa5" * size)
    with running_farebox(tmp_path) as farebox:
        again = Customer(farebox, customer.account_id, customer.token)
        before = again.balance.posted
        assert ready(farebox)[0] == 200, "nothing has read the page yet"
        response = again.chat("one two three", headers={"x-demo": "tokens=5"})
        assert response.status_code == 200, "its charge is in the journal"
        status, body = ready(farebox)
        assert (status, body["database"], body["journal"]) == (503, "damaged", "waiting")
        assert "farebox check" in body["remedy"]
        assert again.balance.posted == before
        until(lambda: ("database_trouble", "damaged") in alarms(farebox), "the operator is alerted")
    checked = command("--data-dir", str(tmp_path), "check")
    assert (checked.returncode, checked.stderr) == (3, "")
    assert "restore a backup or recover" in checked.stdout
    found = json.loads(command("--data-dir", str(tmp_path), "check", "--json").stdout)
    assert found["damage"]
    overwrite(path, at, whole)
    with running_farebox(tmp_path) as farebox:
        mended = Customer(farebox, customer.account_id, customer.token)
        assert mended.balance.posted == before - price_of(3, 5)
        assert mended.balance.held == 0
        assert ready(farebox)[0] == 200
        assert differences(farebox) == []


@SQLITE_ONLY
@pytest.mark.parametrize("at", [0, 24])
def test_an_overwritten_wal_is_reported_before_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Its first bytes are not read before the next start, which would then ignore all of its content."""
    monkeypatch.setattr("farebox.runtime.readiness.FRESH_SECONDS", 0.0)
    monkeypatch.setattr("farebox.storage.sqlite.database.RECHECK_SECONDS", 0.0)
    log = tmp_path / "farebox.db-wal"
    with running_farebox(tmp_path) as farebox:
        customer = farebox.funded("5")
        assert ready(farebox)[0] == 200
        whole = overwrite(log, at, b"\xa5\x5a\xa5\x5a")
        until(lambda: ready(farebox)[1]["database"] == "damaged", "it is noticed")
        overwrite(log, at, whole)
        until_ready(farebox)
        assert customer.chat().status_code == 200
        assert differences(farebox) == []


@SQLITE_ONLY
def test_a_lock_held_by_another_process_is_reported_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both while a check waits, and between a failed check and the next."""
    monkeypatch.setattr("farebox.runtime.readiness.WAIT_SECONDS", 0.02)
    monkeypatch.setattr("farebox.runtime.readiness.FRESH_SECONDS", 0.0)
    monkeypatch.setattr("farebox.storage.sqlite.writer.BUSY_TIMEOUT_MS", 100)
    with running_farebox(tmp_path) as farebox, contextlib.closing(connect(tmp_path / "farebox.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        until(lambda: ready(farebox)[1]["database"] == "locked", "it is noticed")
        look, database = farebox.services.readiness, farebox.services.database
        until(lambda: ready(farebox)[0] == 503 and look._failure is not None, "a look has ended")
        failed, reported = database.failure_count, set()
        while database.failure_count < failed + 3:
            status, body = ready(farebox)
            reported.add((status, body["database"], body["remedy"]))
        assert reported == {(503, "locked", DatabaseLocked.remedy)}
        other.execute("ROLLBACK")
        until_ready(farebox)


@SQLITE_ONLY
def test_repaired_damage_is_forgotten_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farebox.storage.sqlite.database.RECHECK_SECONDS", 0.0)
    with running_farebox(tmp_path) as farebox:
        database = farebox.services.database

        def misread(connection: Connection) -> None:
            raise apsw.CorruptError("database disk image is malformed")

        with pytest.raises(DatabaseDamaged):
            farebox.run(database.get(misread))
        monkeypatch.setattr("farebox.storage.sqlite.database.damages", lambda connection, at_most: ["row 7 missing"])
        assert ready(farebox)[1]["database"] == "damaged"
        monkeypatch.undo()
        monkeypatch.setattr("farebox.storage.sqlite.database.RECHECK_SECONDS", 0.0)
        until(lambda: ready(farebox)[0] == 200, "the file was found whole")


@SQLITE_ONLY
def test_a_file_that_is_not_a_database_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "farebox.db").write_bytes(b"\x00\x01\x02 no database" * 1000)
    checked = command("--data-dir", str(tmp_path), "check")
    assert (checked.returncode, checked.stderr) == (3, "")
    served = command("--data-dir", str(tmp_path), "serve", "--port", "0")
    assert served.returncode in (1, 2)
    balance = command("--data-dir", str(tmp_path), "balance", "--account", "a" * 32)
    assert balance.returncode == 1
    assert len(balance.stderr.splitlines()) == 1
    assert "farebox check" in balance.stderr


async def test_damage_reported_by_postgres_is_translated(postgres_url: str) -> None:
    """XX001 is PostgreSQL's code for a page with a wrong checksum, XX002 for a damaged index."""
    database = await PostgresDatabase.open(postgres_url, timeout=10)
    try:
        for state in ("XX001", "XX002"):
            text = f"DO $$ BEGIN RAISE EXCEPTION 'invalid page in block 7' USING ERRCODE = '{state}'; END $$"
            with pytest.raises(DatabaseDamaged, match="invalid page"):
                await database.write(partial(_execute, text=text))
        with pytest.raises(DatabaseDamaged):
            await database.check_writable()
        assert [trouble.state for trouble in database.take_failures()] == ["damaged"]
        database.check()
        assert await database.write(lambda _: 7) == 7, "undamaged data remains usable"
        with pytest.raises(DatabaseFull):
            await database.write(partial(_execute, text=text.replace("XX002", "53100")))
    finally:
        await database.close()


def _execute(connection: Connection, text: str) -> None:
    connection.execute(text)


# --- a full disk under PostgreSQL -------------------------------------------------------------------------------------


@pytest.fixture
def small_database() -> Iterator[tuple[Disk, str]]:
    """The URL of a migrated database whose files are on a small disk, and that disk."""
    engines.use_engine("postgres")
    with (
        engines.one_machine() as postgres,
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        small_disk(Path(folder) / "disk", 32) as disk,
    ):
        place = disk.folder / "tables"
        place.mkdir()
        for each in (Path(folder), disk.folder):  # the server's user can enter the folder
            each.chmod(0o711)
        if postgres.user is not None:
            os.chown(place, postgres.user.pw_uid, postgres.user.pw_gid)
        postgres.query(f"CREATE TABLESPACE small LOCATION '{place}'")
        url = postgres.new_database() if CITUS else engines.new_database()
        postgres.query(f'ALTER DATABASE "{urlsplit(url).path[1:]}" SET TABLESPACE small')
        try:
            yield disk, url
        finally:
            postgres.drop_database(url)
            postgres.query("DROP TABLESPACE small")


@POSTGRES_ONLY
def test_a_full_postgres_disk_is_reported_until_there_is_space(
    small_database: tuple[Disk, str], tmp_path: Path
) -> None:
    """It is reported beyond the next small commit, which may fit into an existing page."""
    disk, url = small_database
    with running_farebox(tmp_path, database_url=url) as farebox:
        customer = farebox.funded("5")
        assert customer.chat().status_code == 200
        disk.fill()
        text = "word " * 3_000
        until(lambda: customer.chat(text).status_code == 503, "there is no room for another page")
        for _ in range(3):
            status, body = ready(farebox)
            assert (status, body["database"]) == (503, "full")
            assert "make room" in body["remedy"]
            farebox.run(look_again(farebox))
        assert customer.chat().status_code == 503
        disk.make_room()
        until_ready(farebox)
        until(lambda: ready(farebox)[1]["journal"] == "empty" and customer.balance.held == 0, "all is posted")
        assert customer.chat().status_code == 200
        until(lambda: ("database_trouble", "full") in alarms(farebox), "the operator is alerted")
        assert differences(farebox) == []


async def look_again(farebox: Farebox) -> None:
    """Have the health check run again, and wait until it has."""
    database = farebox.services.database
    assert isinstance(database, PostgresDatabase)
    database.health._probe_now.set()
    while database.health._probe_now.is_set():  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.005)


@POSTGRES_ONLY
async def test_without_temporary_files_a_commit_serves_as_the_disk_check(monkeypatch: pytest.MonkeyPatch) -> None:
    url = engines.new_database()
    watched = health.DatabaseHealth(url, timeout=20, standby="ignore")
    watched._watching = asyncio.ensure_future(asyncio.sleep(0))
    watched.failed(DatabaseFull("no space left"))
    monkeypatch.setattr(health, "_ROOM", health._ROOM.replace("BEGIN;", "BEGIN; SET LOCAL temp_file_limit = 0;"))
    await watched._probe()
    watched.check()
    await watched.close()
    engines.postgres_server().drop_database(url)


async def test_a_server_that_stopped_on_a_full_disk_is_reported_as_full() -> None:
    """PostgreSQL stops if it cannot write its log; the driver reports the lost connection and its reason."""
    watched = health.DatabaseHealth("postgresql://127.0.0.1:1/x", timeout=1, standby="ignore")
    watched._watching = asyncio.ensure_future(asyncio.sleep(0))
    with pytest.raises(DatabaseFull) as panicked, translate_errors():
        raise asyncpg.ConnectionDoesNotExistError("closed in the middle") from asyncpg.DiskFullError("no space left")
    watched.failed(panicked.value)
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable, match="Connect call failed") as refused:
            await watched._probe()
        watched._mark_unavailable(refused.value)
        with pytest.raises(DatabaseDiskFull, match=r"call failed.*; before that:.*closed in the middle") as reported:
            watched.check()
        watched.failed(reported.value)
    assert reported.value.state == "full"
    assert str(reported.value).count("before that") == 1
    watched._mark_available()
    watched.failed(DatabaseUnavailable("another time"))
    with pytest.raises(DatabaseUnavailable, match=r"^another time$"):
        watched.check()


# --- removed files, failing disks -------------------------------------------------------------------------------------


@SQLITE_ONLY
@pytest.mark.parametrize("name", ["farebox.db", "farebox.db-wal"])
def test_a_moved_database_file_refuses_calls_until_it_is_back(tmp_path: Path, name: str) -> None:
    """Otherwise all later charges would be lost with the process."""
    with running_farebox(tmp_path) as farebox:
        customer = farebox.funded("5")
        assert customer.chat().status_code == 200
        before = customer.balance
        (tmp_path / name).rename(tmp_path / "elsewhere")
        assert customer.chat().status_code == 503
        status, body = ready(farebox)
        assert (status, body["database"]) == (503, "replaced")
        (tmp_path / "elsewhere").rename(tmp_path / name)
        until_ready(farebox)
        until(lambda: customer.balance == before, "nothing was charged or is held")
        assert customer.chat().status_code == 200
        assert differences(farebox) == []


@SQLITE_ONLY
def test_a_read_only_disk_at_startup_is_reported_in_one_line(disk: Disk) -> None:
    with running_farebox(disk.folder) as farebox:
        farebox.funded("5")
    disk.remount("ro")
    try:
        served = command("--data-dir", str(disk.folder), "serve", "--port", "18473")
    finally:
        disk.remount("rw")
    assert served.returncode == 1
    assert len(served.stderr.splitlines()) == 1
    assert "Traceback" not in served.stderr
    assert str(disk.folder) in served.stderr


@pytest.fixture
async def writer(tmp_path: Path) -> AsyncIterator[Writer]:
    path = tmp_path / "writer.db"
    connection = connect(path)
    connection.execute("CREATE TABLE numbers (n INTEGER PRIMARY KEY)")
    connection.close()
    writer = Writer(path)
    yield writer
    await writer.close()


def insert(number: int) -> Callable[[Connection], int]:
    def job(connection: Connection) -> int:
        connection.execute("INSERT INTO numbers VALUES (?)", (number,))
        return number

    return job


async def test_a_write_refused_by_the_system_is_reported_and_the_next_succeeds(writer: Writer) -> None:
    """As with a quota: the process may not write larger files."""
    await writer.run(insert(1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        with pytest.raises(DatabaseFailing):
            await writer.run(insert(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert await writer.run(insert(3)) == 3
    found = await writer.run(lambda c: [n for (n,) in c.execute("SELECT n FROM numbers ORDER BY n")])
    assert found == [1, 3]
