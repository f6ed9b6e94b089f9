"""The server on which other tests rely: it starts, crashes, recovers, has standbys, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import engines
from tests.memory import memory_folder
from tests.postgres.server import (
    FOLDER_PREFIX,
    OLDEST_MAJOR,
    PROGRAMS,
    PostgresError,
    PostgresServer,
    binaries,
    candidates,
    major_version,
    standby_of,
    start_postgres,
    wait_for,
)
from tests.postgres.watcher import is_gone

ROOT = Path(__file__).parents[2]
STARTER = """
from tests.postgres.server import start_postgres
server = start_postgres()
print(server.folder, *server.pids(), flush=True)
input()
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with engines.one_machine() as server:
        yield server


@pytest.fixture
def durable() -> Iterator[PostgresServer]:
    with start_postgres(durable=True) as server:
        yield server


def keep_a_row(server: PostgresServer) -> None:
    server.query("CREATE TABLE kept (word text)")
    server.query("INSERT INTO kept VALUES ('fare')")


def has_the_row(server: PostgresServer) -> bool:
    return server.query("SELECT word FROM kept") == [("fare",)]


# Which PostgreSQL.


def test_the_chosen_folder_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    last = candidates()[-1]
    monkeypatch.setenv("FAREBOX_TEST_POSTGRES_BIN", str(last))
    assert binaries() == last


def test_an_old_postgresql_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for program in PROGRAMS:
        (tmp_path / program).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 14.11 (Debian 14.11-1)'\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("FAREBOX_TEST_POSTGRES_BIN", str(tmp_path))
    with pytest.raises(PostgresError, match=f"{OLDEST_MAJOR} or newer: {tmp_path} is PostgreSQL 14"):
        binaries()


def test_a_folder_without_the_programs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAREBOX_TEST_POSTGRES_BIN", str(tmp_path))
    with pytest.raises(PostgresError, match="none was found"):
        binaries()


@pytest.mark.parametrize("folder", candidates(), ids=str)
def test_every_installed_postgresql_works(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not all((folder / program).exists() for program in PROGRAMS):
        pytest.skip("a client's programs only")
    monkeypatch.setenv("FAREBOX_TEST_POSTGRES_BIN", str(folder))
    with start_postgres() as server:
        assert server.query("SHOW server_version_num")[0][0].startswith(str(major_version(folder)))
        keep_a_row(server)
        with standby_of(server, synchronous=True) as standby:
            server.kill()
            standby.promote()
            assert has_the_row(standby)


# Start and settings.


def test_the_server_listens_on_loopback_in_utc(postgres: PostgresServer) -> None:
    assert postgres.url == f"postgresql://farebox@127.0.0.1:{postgres.port}/postgres"
    assert postgres.query("SHOW listen_addresses") == [("127.0.0.1",)]
    assert postgres.query("SHOW timezone") == [("UTC",)]
    assert postgres.query("SELECT usesuper FROM pg_user WHERE usename = current_user") == [(True,)]


def test_only_a_durable_server_waits_for_the_disk(postgres: PostgresServer, durable: PostgresServer) -> None:
    commit = (
        "SELECT current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit')"
    )
    assert postgres.query(commit) == [("off", "off", "on")]
    assert durable.query(commit) == [("on", "on", "on")]


def test_settings_override_ours_and_change_with_a_start() -> None:
    with start_postgres(settings={"shared_buffers": "16MB", "cluster_name": "driver's"}) as server:
        assert server.query("SHOW shared_buffers") == [("16MB",)]
        assert server.query("SHOW cluster_name") == [("driver's",)]
        server.stop()
        assert server.pids() == []
        server.settings["shared_buffers"] = "17MB"
        server.start()
        assert server.query("SHOW shared_buffers") == [("17MB",)]


def test_a_start_that_fails_says_why_and_leaves_nothing() -> None:
    setting = f"no_such_{uuid.uuid4().hex}"
    with pytest.raises(PostgresError, match=setting):
        start_postgres(settings={setting: "1"})
    places = [place for place in (Path("/tmp"), memory_folder()) if place]
    logs = [log for place in places for log in place.glob(f"{FOLDER_PREFIX}*/log")]
    assert [log for log in logs if setting in log.read_text()] == []


# Databases.


def test_a_new_database_is_empty_and_separate(postgres: PostgresServer, postgres_url: str) -> None:
    other = postgres.new_database()
    postgres.query("CREATE TABLE mine (id int)", other)
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    assert postgres.query(tables, other) == [("mine",)]
    assert postgres.query(tables, postgres_url) == []
    postgres.drop_database(other)
    name = other.rpartition("/")[2]
    assert postgres.query(f"SELECT 1 FROM pg_database WHERE datname = '{name}'") == []


async def test_the_server_works_next_to_a_running_event_loop(postgres: PostgresServer) -> None:
    assert postgres.query("SELECT 1") == [(1,)]


# Crashes.


def test_a_committed_row_outlives_a_kill(durable: PostgresServer) -> None:
    keep_a_row(durable)
    before = durable.pids()
    assert len(before) > 1
    durable.kill()
    assert all(is_gone(pid) for pid in before)
    assert durable.pids() == []
    port = durable.port
    durable.start()
    assert durable.port == port
    assert has_the_row(durable)
    assert "was not properly shut down" in durable.log.read_text()


def test_the_postmaster_comes_first_of_its_processes(postgres: PostgresServer) -> None:
    postmaster, *children = postgres.pids()
    parents = {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] for pid in children}
    assert parents == {str(postmaster)}


def test_a_synchronous_standby_has_every_commit(durable: PostgresServer) -> None:
    with standby_of(durable, synchronous=True) as standby:
        assert standby.query("SHOW transaction_read_only") == [("on",)]
        keep_a_row(durable)
        durable.kill()
        standby.promote()
        assert has_the_row(standby)
        standby.query("INSERT INTO kept VALUES ('box')")


def test_a_commit_waits_for_its_synchronous_standby(durable: PostgresServer) -> None:
    with standby_of(durable, synchronous=True) as standby, ThreadPoolExecutor(1) as thread:
        durable.query("CREATE TABLE kept (word text)")
        standby.stop()
        waiting = thread.submit(durable.query, "INSERT INTO kept VALUES ('fare')")
        commit_waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        wait_for(lambda: bool(durable.query(commit_waits)), "the commit waits")
        assert not waiting.done()
        standby.start()
        waiting.result()
        assert has_the_row(durable)


def test_an_asynchronous_standby_delays_no_commit(postgres: PostgresServer) -> None:
    with standby_of(postgres, synchronous=False) as standby:
        standby.kill()
        postgres.query("CREATE TABLE alone (word text)")
        postgres.query("DROP TABLE alone")
        assert postgres.query("SHOW synchronous_standby_names") == [("",)]


# The end.


@pytest.mark.parametrize("how", ["close", "killed before"])
def test_a_stopped_server_leaves_nothing_behind(how: str) -> None:
    with start_postgres() as server:
        before = server.pids()
        segment = server.data.joinpath("postmaster.pid").read_text().splitlines()[6].split()[1]
        assert segment in shared_memory_segments()
        if how == "killed before":
            server.kill()
    assert all(is_gone(pid) for pid in before)
    assert not server.folder.exists()
    assert segment not in shared_memory_segments()


def shared_memory_segments() -> set[str]:
    return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_server_dies_with_its_parent(end: signal.Signals) -> None:
    command = [sys.executable, "-c", STARTER]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    with parent:
        assert parent.stdout is not None
        folder, *pids = parent.stdout.readline().decode().split()
        assert pids
        assert not any(is_gone(int(pid)) for pid in pids)
        os.kill(parent.pid, end)
    # A server that loses its folder ends too, but only after most of a minute.
    wait_for(lambda: all(is_gone(int(pid)) for pid in pids), "its processes are gone", seconds=10)
    wait_for(lambda: not Path(folder).exists(), "its folder is gone")
