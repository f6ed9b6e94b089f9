"""Bulk inserts: SQLite's INSERT in one transaction, or PostgreSQL's COPY."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import asyncpg

from bench.engines import Engine
from farebox.storage.sqlite import SqliteConnection, open_file

Values = tuple[Any, ...]
COPY_SECONDS = 3600.0


class Sink(Protocol):
    def add(self, table: str, columns: Sequence[str], values: Sequence[Values]) -> None:
        """Write rows; they are durable when the sink is closed."""
        ...


@contextlib.contextmanager
def opened(engine: Engine, folder: Path) -> Iterator[Sink]:
    """A sink until the block ends. A crash leaves an unusable database: fill another one."""
    settings = engine.settings(folder)
    if engine.name == "postgres":
        with asyncio.Runner() as runner:
            session = runner.run(asyncpg.connect(engine.url, timeout=COPY_SECONDS, command_timeout=COPY_SECONDS))
            runner.run(session.execute("SET synchronous_commit = off"))
            yield _Copy(runner, session)
            runner.run(session.execute("VACUUM (ANALYZE)"))
            runner.run(session.execute("CHECKPOINT"))
            runner.run(session.close())
        return
    with contextlib.closing(open_file(settings.database_path)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -200000"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        yield _Insert(connection)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")


class _Insert:
    def __init__(self, connection: SqliteConnection) -> None:
        self._connection = connection

    def add(self, table: str, columns: Sequence[str], values: Sequence[Values]) -> None:
        places = ", ".join("?" * len(columns))
        self._connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", values)


class _Copy:
    def __init__(self, runner: asyncio.Runner, session: asyncpg.Connection) -> None:
        self._runner = runner
        self._session = session

    def add(self, table: str, columns: Sequence[str], values: Sequence[Values]) -> None:
        self._runner.run(self._session.copy_records_to_table(table, records=values, columns=columns))
