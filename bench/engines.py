"""The database of the Farebox under test: a file, or a PostgreSQL server started for the run, which syncs to disk like
an operator's."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from tests.postgres.server import start_postgres

from bench import machine
from farebox.settings import Settings, load
from farebox.storage.database import opened_for_command
from farebox.storage.sql import row

EngineName: TypeAlias = Literal["sqlite", "postgres"]
NAMES: tuple[EngineName, ...] = ("sqlite", "postgres")


@dataclass(frozen=True, slots=True)
class Engine:
    """One database. On SQLite it is a file in the data folder, and the server's own processes do its work."""

    name: EngineName
    url: str = ""
    postmaster: int | None = None
    version: str = ""

    def environment(self) -> dict[str, str]:
        """The environment variables that point the server to this database."""
        return {"FAREBOX_DATABASE_URL": self.url} if self.url else {}

    def settings(self, folder: Path) -> Settings:
        return load(self.environment(), data_dir=str(folder))

    def cpu_seconds(self) -> float:
        """CPU seconds of the database's processes so far, including those that have ended: the postmaster waited for
        them."""
        return 0.0 if self.postmaster is None else machine.cpu_seconds(self.postmaster)

    def memory_mb(self) -> float | None:
        return None if self.postmaster is None else machine.memory_mb(self.postmaster)["pss"]

    def size_mb(self, folder: Path) -> float:
        if self.postmaster is None:
            return round(sum(file.stat().st_size for file in folder.glob("farebox.db*")) / 2**20, 1)
        with opened_for_command(self.settings(folder)) as connection:
            found = row(connection, "SELECT pg_database_size(current_database())")
        return round(int(found[0]) / 2**20, 1) if found else 0.0

    def money(self, folder: Path) -> tuple[int, int]:
        """The sums posted and held over all accounts, in nano-dollars, as another process reads them."""
        with opened_for_command(self.settings(folder)) as connection:
            found = row(connection, "SELECT sum(posted), sum(held) FROM balances")
        assert found is not None
        return int(found[0]), int(found[1])


SQLITE = Engine("sqlite")


@contextlib.contextmanager
def started(name: EngineName) -> Iterator[Engine]:
    """A new, empty database, until the block ends."""
    if name == "sqlite":
        yield SQLITE
        return
    with start_postgres(durable=True) as server:
        version = str(server.query("SHOW server_version")[0][0])
        yield Engine("postgres", server.new_database(), server.pids()[0], version)
