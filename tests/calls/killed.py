"""Server processes that are killed, whatever they are doing, and what the next one has to end."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from farebox.settings import Settings
from farebox.storage.sql import rows
from tests import processes
from tests.engines import read_now, settings_for
from tests.processes import Process

GIVEN_UP_MS = 2_000
"""PostgreSQL: a process that was not seen for so long has its holds ended. On SQLite the next start does it at once."""


@dataclass(frozen=True, slots=True)
class Installation:
    """The data folder of the server that is killed, and who may call it."""

    folder: Path
    port: int
    customers: list[tuple[str, str]]
    """Account id and token."""

    @property
    def settings(self) -> Settings:
        return settings_for(self.folder)

    @property
    def environment(self) -> dict[str, str]:
        """Of its processes: nothing is set but where the database is, and how soon a dead process is given up."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")}
        return inherited | {
            "FAREBOX_DATABASE_URL": self.settings.database_url,
            "FAREBOX_INSTANCE_TIMEOUT_MS": str(GIVEN_UP_MS),
        }

    def arguments(self, *arguments: str) -> list[str]:
        return ["--data-dir", str(self.folder), *arguments]


@contextlib.contextmanager
def served(installation: Installation) -> Iterator[Process]:
    """A server process; killed at the end, whatever it was doing."""
    with (installation.folder / "server.log").open("ab") as log:
        process = processes.start(
            installation.arguments("serve", "--demo", "--port", str(installation.port)),
            env=installation.environment | {"FAREBOX_LOG_LEVEL": "warning"},
            stderr=log,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)


async def listening(installation: Installation, process: Process) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", installation.port)
        except ConnectionError:
            assert process.poll() is None, (installation.folder / "server.log").read_text()[-2000:]
            assert time.monotonic() < end, "the server did not start"
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return


async def nothing_in_doubt(installation: Installation) -> None:
    """Wait until the last server has ended what the dead ones left open: on SQLite its start has."""
    # There, one that was killed while it ended what another left open has the lease for that: its time runs out first.
    end = time.monotonic() + (
        0 if installation.settings.engine == "sqlite" else installation.settings.instance_timeout_ms / 1000 + 30
    )
    while left := read_now(installation.settings, lambda c: rows(c, "SELECT hold_id FROM holds WHERE state = 'open'")):
        assert time.monotonic() < end, left
        await asyncio.sleep(0.1)


def check_online(installation: Installation) -> None:
    """While the last server still runs."""
    checked = processes.run(installation.arguments("check", "--json"), env=installation.environment)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert json.loads(checked.stdout)["differences"] == []
