"""Chooses the engine of each test's database: SQLite or PostgreSQL.

`FAREBOX_TEST_ENGINE=postgres` runs the whole suite on PostgreSQL, `=sqlite` on SQLite. Without it, tests marked
ON_BOTH_ENGINES run once on each engine, and all others on SQLite. Tests about SQLite itself are marked SQLITE_ONLY.

If FAREBOX_TEST_CITUS_URL is set, PostgreSQL is that cluster (tests.citus.cluster), and the tables are distributed.

A database belongs to a folder: opening the folder again finds the same database, as if it were a file in the folder. It
is a copy of a template (a file, or a database on PostgreSQL) that is migrated once per test process. On PostgreSQL it
is dropped after the test whose folder it was.
"""

import asyncio
import contextlib
import functools
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import pytest

from farebox.model import Operator
from farebox.settings import Settings, load
from farebox.storage.buckets import KnownBuckets
from farebox.storage.database import Database, migrate_now, opened_for_command
from farebox.storage.postgres import bridge
from farebox.storage.postgres.connecting import Session, connect
from farebox.storage.postgres.database import PostgresDatabase
from farebox.storage.sql import Connection
from farebox.storage.sqlite import connect as connect_sqlite
from farebox.storage.sqlite import open_file
from farebox.storage.sqlite.database import SqliteDatabase
from tests.citus.cluster import CITUS, Cluster
from tests.postgres.server import PostgresServer, start_postgres

T = TypeVar("T")

TESTER = Operator("tester@tests", "command")
"""The operator to whom tests attribute what an operator does."""

ENGINES = ("sqlite", "postgres")
CHOSEN = os.environ.get("FAREBOX_TEST_ENGINE", "")
"""The engine of the whole run; empty: SQLite, and both engines for tests marked so."""
assert CHOSEN in ("", *ENGINES), f"FAREBOX_TEST_ENGINE is {CHOSEN!r}: it must be one of {', '.join(ENGINES)}"

ON_BOTH_ENGINES = [pytest.mark.usefixtures("engine"), pytest.mark.both_engines]
"""Marks for `pytestmark` of a module, or for a parameter."""
SQLITE_ONLY = pytest.mark.sqlite_only

SECONDS = 300.0

_now = {"engine": CHOSEN or "sqlite", "databases": "may be opened"}
_urls: dict[Path, str] = {}


def engines_of(marked: Callable[[str], object]) -> tuple[str, ...]:
    """The engines on which a test runs. `marked`: whether the test has a marker of that name."""
    if marked("sqlite_only"):
        return ("sqlite",)
    if CHOSEN:
        return (CHOSEN,)
    return ENGINES if marked("both_engines") else ("sqlite",)


def engine_now() -> str:
    """The engine of the current test."""
    return _now["engine"]


def use_engine(engine: str, *, databases: bool = True) -> None:
    """Set the engine of the current test. `databases`: whether it may open one (`may_open`)."""
    _now["engine"] = engine
    _now["databases"] = "may be opened" if databases else ""


def may_open() -> None:
    """Fails in a test that runs on one engine of both, because it seemed to have no database (tests.conftest)."""
    assert _now["databases"], (
        "this test is marked for both engines, but runs on one of them, as it has no fixture that leads to a folder: "
        "request tmp_path or tmp_path_factory"
    )


# Databases.


def database_url(folder: Path) -> str:
    """FAREBOX_DATABASE_URL of the folder's database; empty on SQLite, where it is the default."""
    may_open()
    if engine_now() == "sqlite":
        return ""
    folder = folder.absolute()
    if folder not in _urls:
        _urls[folder] = new_database()
    return _urls[folder]


def settings_for(folder: Path, **more: object) -> Settings:
    """Settings of a process with this data folder, on the engine of the test. Values in `more` take precedence."""
    settings = load({}, **{"data_dir": str(folder), "database_url": database_url(folder), **more})
    if settings.engine == "sqlite":
        lay_out(settings.database_path)
    return settings


def lay_out(path: Path) -> None:
    """Create a migrated file if there is none yet."""
    if not path.exists():
        _lay_down(path, _template_file())


@functools.cache
def _template_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "template.db"
        open_file(path).close()
        return path.read_bytes()


@functools.cache
def postgres_server() -> PostgresServer:
    """The server of this test process, started on first use and stopped by `close_engines`. If a cluster stands in for
    it, it provides databases, and cannot be stopped or killed."""
    return cast(PostgresServer, _cluster()) if CITUS else start_postgres()


@contextlib.contextmanager
def one_machine() -> Iterator[PostgresServer]:
    """The same, for a test about a single machine: if a cluster stands in, a separate server."""
    if not CITUS:
        yield postgres_server()
        return
    with start_postgres() as server:
        yield server


@functools.cache
def _cluster() -> Cluster:
    return Cluster()


@functools.cache
def _template() -> str:
    url = postgres_server().new_database()
    with ThreadPoolExecutor(1) as thread:  # a loop may be running in this thread
        thread.submit(migrate_now, load({}, database_url=url)).result()
    return url


def new_database() -> str:
    """The URL of a new, migrated PostgreSQL database."""
    if not CITUS:
        return _copy_of(_template())
    url = _cluster().distributed()
    # Processes and commands of the tests do not set FAREBOX_BUCKETS, so new accounts are in the first bucket.
    _cluster().query("UPDATE schema_version SET buckets = 1", url)
    return url


def _copy_of(url: str) -> str:
    """The URL of a copy of a database without connections."""
    if CITUS:
        return postgres_server().new_database(like=url)
    return postgres_server().new_database(like=url, ask=_ask)


def has_database(folder: Path) -> bool:
    """Whether this folder has a database."""
    if engine_now() == "sqlite":
        return load({}, data_dir=str(folder)).database_path.exists()
    return folder.absolute() in _urls


def template_of(settings: Settings) -> Callable[[Path], None]:
    """Make a closed database a template; returns a function that gives a folder without a database a copy."""
    if settings.engine == "sqlite":
        name, content = settings.database_path.name, settings.database_path.read_bytes()
        return lambda folder: _lay_down(folder / name, content)
    _Outside.forget(settings.database_url)
    return lambda folder: _urls.update({folder.absolute(): _copy_of(settings.database_url)})


def _lay_down(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_bytes(content)


def waiting_for_a_lock(session: str) -> str:
    """A query for the batches of sessions with this name that wait for a lock, on any node."""
    if CITUS:
        return "SELECT 1 FROM citus_lock_waits WHERE strpos(blocked_statement, 'ledger_batch') > 0"
    return (
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
        f"AND application_name = '{session}'"
    )


def forget_databases(folder: Path) -> None:
    """Drop the databases of a folder and of those in it."""
    for owner in [owner for owner in _urls if owner.is_relative_to(folder)]:
        url = _urls.pop(owner)
        _Outside.forget(url)
        if CITUS:
            postgres_server().drop_database(url)
        else:
            postgres_server().drop_database(url, ask=_ask)


def _ask(statement: str) -> object:
    """Run a statement on a kept connection: a new one takes as long as copying a small database."""
    return _Outside.of(postgres_server().url).execute(statement)


def close_engines() -> None:
    """Stop what was started here, at the end of the test process."""
    _Outside.close()
    if (_cluster if CITUS else postgres_server).cache_info().currsize:
        postgres_server().close()
        postgres_server.cache_clear()
        _cluster.cache_clear()
        _template.cache_clear()
        _urls.clear()


def backup(settings: Settings, to: Path) -> Callable[[], None]:
    """Copy the closed database; returns a function that restores the copy, as often as it is called."""
    if settings.engine == "sqlite":
        shutil.copy(settings.database_path, to)
        return functools.partial(_put_back_file, to, settings.database_path)
    _Outside.forget(settings.database_url)
    _urls[to.absolute()] = saved = postgres_server().new_database(like=settings.database_url)
    return functools.partial(_put_back_database, saved, settings.database_url)


def _put_back_file(saved: Path, path: Path) -> None:
    for old in path.parent.glob(path.name + "*"):
        old.unlink()
    shutil.copy(saved, path)


def _put_back_database(saved: str, url: str) -> None:
    _Outside.forget(url)
    postgres_server().drop_database(url)
    postgres_server().new_database(like=saved, name=urlsplit(url).path[1:])


# Reads and writes from outside the server.


@contextlib.contextmanager
def looking(database: Database | Settings) -> Iterator[Connection]:
    """Read committed data next to the server; works in any thread, even with a running loop."""
    if isinstance(database, PostgresDatabase) or (isinstance(database, Settings) and database.engine == "postgres"):
        yield _Outside.of(database.url if isinstance(database, PostgresDatabase) else database.database_url)
        return
    path = database.path if isinstance(database, SqliteDatabase) else database.database_path  # type: ignore[union-attr]
    connection = connect_sqlite(path, readonly=True)
    try:
        yield connection
    finally:
        connection.close()


def read_now(database: Database | Settings, read: Callable[[Connection], T]) -> T:
    """The result of `read` on committed data."""
    with looking(database) as connection:
        return read(connection)


def write_now(settings: Settings, write: Callable[[Connection], T]) -> T:
    """Run `write` in a transaction, like a command; only in a thread without a running loop."""
    with opened_for_command(settings, writing=True) as connection:
        return write(connection)


class _Outside:
    """A connection to PostgreSQL on a separate loop and thread, kept for later reads."""

    _loop: asyncio.AbstractEventLoop | None = None
    _thread: threading.Thread
    _open: dict[str, "_Outside"] = {}  # noqa: RUF012

    def __init__(self, url: str) -> None:
        self._changes = 0
        self._one_at_a_time = threading.Lock()
        self._session: Session = self._run(connect(url, timeout=SECONDS, name="farebox test"))

    @classmethod
    def of(cls, url: str) -> "_Outside":
        if url not in cls._open or cls._open[url]._session.is_closed():
            cls._open[url] = cls(url)
        return cls._open[url]

    @classmethod
    def forget(cls, url: str) -> None:
        if url in cls._open:
            outside = cls._open.pop(url)
            outside._run(outside._session.close())

    @classmethod
    def close(cls) -> None:
        for url in list(cls._open):
            cls.forget(url)
        if cls._loop is not None:
            cls._loop.call_soon_threadsafe(cls._loop.stop)
            cls._thread.join()
            cls._loop.close()
            cls._loop = None

    @classmethod
    def _run(cls, work: Coroutine[Any, Any, T]) -> T:
        if cls._loop is None:
            cls._loop = asyncio.new_event_loop()
            cls._thread = threading.Thread(target=cls._loop.run_forever, name="looks at PostgreSQL", daemon=True)
            cls._thread.start()
        return asyncio.run_coroutine_threadsafe(work, cls._loop).result(SECONDS)

    def execute(self, sql: str, values: tuple[Any, ...] = (), /) -> bridge.FoundRows:
        with self._one_at_a_time:
            found, changed = self._run(bridge.execute(self._session, sql, values))
        if changed is not None:
            self._changes = changed
        return found

    @property
    def buckets(self) -> KnownBuckets:
        """Nothing is cached: each test has its own database."""
        return KnownBuckets()

    def changes(self) -> int:
        return self._changes
