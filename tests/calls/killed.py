"""Server processes that are killed at any moment, and what the next process has to end."""

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
"""On PostgreSQL, the time after which the holds of a process that was not seen are ended. On SQLite the next start ends
them at once."""


@dataclass(frozen=True, slots=True)
class Installation:
    """The data folder of the server that is killed, and its callers."""

    folder: Path
    port: int
    customers: list[tuple[str, str]]
    """Account id and token."""

    @property
    def settings(self) -> Settings:
        return settings_for(self.folder)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of its processes: only the database, and the time after which a process is declared dead."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")}
        return inherited | {
            "FAREBOX_DATABASE_URL": self.settings.database_url,
            "FAREBOX_INSTANCE_TIMEOUT_MS": str(GIVEN_UP_MS),
        }

    def arguments(self, *arguments: str) -> list[str]:
        return ["--data-dir", str(self.folder), *arguments]


@contextlib.contextmanager
def served(installation: Installation) -> Iterator[Process]:
    """A server process, which is killed at the end."""
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
    """Wait until the last server has ended what the dead ones left open; on SQLite its start has done so."""
    # A process that was killed during recovery still has the lease for it, which has to expire first.
    end = time.monotonic() + (
        0 if installation.settings.engine == "sqlite" else installation.settings.instance_timeout_ms / 1000 + 30
    )
    while left := read_now(installation.settings, lambda c: rows(c, "SELECT hold_id FROM holds WHERE state = 'open'")):
        assert time.monotonic() < end, left
        await asyncio.sleep(0.1)


def check_online(installation: Installation) -> None:
    """Run `farebox check` while the last server is running."""
    checked = processes.run(installation.arguments("check", "--json"), env=installation.environment)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert json.loads(checked.stdout)["differences"] == []
