"""A log that cannot be written: no call fails because of it, none is charged twice, and background work continues."""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from farebox.storage.database import opened_for_command
from farebox.storage.sql import rows
from tests import processes
from tests.calls.kit import price_of
from tests.engines import SQLITE_ONLY, database_url, engine_now, postgres_server
from tests.failures.kit import Installation, new_installation
from tests.processes import Process
from tests.waiting import until

pytestmark = pytest.mark.slow

CALLS = 10


@dataclass(frozen=True)
class Served:
    installation: Installation
    process: "Process | subprocess.Popen[bytes]"
    client: httpx.Client

    def call(self) -> httpx.Response:
        account, token = self.installation.customers[0]
        return self.client.post(
            f"{self.installation.url}/v1/{account}/default/compat/chat/completions",
            json={"model": "demo/demo-1", "messages": [{"role": "user", "content": "one two three"}]},
            headers={"authorization": f"Bearer {token}", "x-demo": "tokens=5"},
        )

    def charges(self) -> list[int]:
        with opened_for_command(self.installation.settings) as connection:
            found = rows(connection, "SELECT amount FROM transfers WHERE kind = 'charge'")
            assert rows(connection, "SELECT 1 FROM holds WHERE state = 'open'") == []
        return [amount for (amount,) in found]

    @property
    def dropped(self) -> int:
        lines: int = self.client.get(f"{self.installation.url}/readyz").json()["log_lines_dropped"]
        return lines


@contextlib.contextmanager
def served(folder: Path, stderr: int | None) -> Iterator[Served]:
    """`farebox serve` with this standard error; None: closed."""
    installation = new_installation(folder, database_url(folder))
    environment = installation.environment | {"FAREBOX_LOG_LEVEL": "info"}
    arguments = ["serve", "--demo", "--json", "--port", str(installation.port)]
    process: Process | subprocess.Popen[bytes]
    if stderr is None:
        command = [sys.executable, "-m", "farebox.cli.main", *arguments]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, preexec_fn=lambda: os.close(2))
    else:
        process = processes.start(arguments, env=environment, stdout=subprocess.PIPE, stderr=stderr)
    assert process.stdout is not None
    try:
        assert json.loads(process.stdout.readline())["base_url"] == installation.url
        with httpx.Client() as client:
            yield Served(installation, process, client)
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()


def calls_are_answered_and_charged_once(farebox: Served, count: int = CALLS) -> None:
    responses = [farebox.call() for _ in range(count)]
    assert [response.status_code for response in responses] == [200] * count
    assert farebox.charges() == [price_of(3, 5)] * count


def background_jobs_go_on(farebox: Served) -> None:
    """Check that a periodic job notices a token revoked by a command, and that the health check notices a lost
    database."""
    if engine_now() == "postgres":
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        postgres_server().query(end + "AND pid <> pg_backend_pid()", farebox.installation.settings.database_url)
        until(lambda: farebox.call().status_code == 200, "calls are accepted again")
    with opened_for_command(farebox.installation.settings, writing=True) as connection:
        connection.execute("UPDATE access_tokens SET revoked_at = 1")
        connection.execute("UPDATE config_version SET version = version + 1")
    until(lambda: farebox.call().status_code == 401, "the change is noticed")


@pytest.mark.both_engines
@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("full", [False, True], ids=["closed", "disk full"])
def test_standard_error_that_cannot_be_written(tmp_path: Path, full: bool) -> None:
    with open("/dev/full", "wb") as disk, served(tmp_path, disk.fileno() if full else None) as farebox:
        calls_are_answered_and_charged_once(farebox)
        background_jobs_go_on(farebox)
        assert farebox.dropped > CALLS
        farebox.process.terminate()
        assert farebox.process.wait(30) == 0


@SQLITE_ONLY
def test_a_canceled_reader(tmp_path: Path) -> None:
    """`farebox serve 2>&1 | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with served(tmp_path, writing) as farebox:
            calls_are_answered_and_charged_once(farebox)
            background_jobs_go_on(farebox)
            assert farebox.dropped > CALLS
    finally:
        os.close(writing)


@SQLITE_ONLY
def test_lines_are_dropped_while_the_log_reader_is_stopped(tmp_path: Path) -> None:
    """Lines are dropped, and nothing waits; when it reads again, the log reports the number of missing lines."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 8192)
    try:
        with served(tmp_path, writing) as farebox:
            calls_are_answered_and_charged_once(farebox, 4 * CALLS)
            dropped = farebox.dropped
            assert dropped > 0
            os.read(reading, 65536)
            assert farebox.call().status_code == 200
            line, *_ = [json.loads(line) for line in os.read(reading, 65536).splitlines()]
            assert (line["event"], line["lines"]) == ("log lines dropped", dropped)
            assert farebox.dropped == dropped
            background_jobs_go_on(farebox)
    finally:
        os.close(reading)
        os.close(writing)
