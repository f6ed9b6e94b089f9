"""A Citus cluster that was started for the tests: FAREBOX_TEST_CITUS_URL names a database on its coordinator.

That database lists the nodes (`pg_dist_node`); nothing is written to it. The role must be a superuser that may connect
to every node at the address listed there. Each test gets its own databases, which exist on every node, with the
extension and with the nodes added, and are dropped on every node at the end.
"""

import asyncio
import contextlib
import fcntl
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from farebox.settings import load
from farebox.storage.database import migrate_now
from tests.postgres.server import in_a_loop

CITUS = os.environ.get("FAREBOX_TEST_CITUS_URL", "")
BUCKETS = 8
SECONDS = 120.0
_QUIET = {"citus.override_table_visibility": "off", "client_min_messages": "error"}


@contextlib.contextmanager
def alone(what: str) -> Iterator[None]:
    """A lock, so that no other test process does `what` to the cluster at the same time."""
    with Path(tempfile.gettempdir(), f"farebox-test-citus-{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Cluster:
    """Databases on all nodes of the cluster. `close` drops those that are left, because on each of them Citus runs a
    process that looks for deadlocks every two seconds."""

    def __init__(self, url: str = CITUS) -> None:
        self.url = url
        found = self.query("SELECT nodename, nodeport FROM pg_dist_node ORDER BY groupid")
        self.nodes: list[tuple[str, int]] = [(name, port) for name, port in found]
        """Host and port of the coordinator, then of the workers."""
        self._templates: dict[str, str] = {}
        self._made: set[str] = set()

    # Databases.

    def new_database(self, like: str | None = None, name: str | None = None, *, workers: int | None = None) -> str:
        """The URL, on the coordinator, of a new database: empty, with all workers or only the first; or a copy of the
        database at the URL `like`, whose connections are ended."""
        name = name or f"test_{uuid.uuid4().hex}"
        self._copy(self._template("empty", self._make_empty) if like is None else urlsplit(like).path[1:], name)
        self._made.add(name)
        url = self.url_of(name)
        if like is None:
            (host, port), *others = self.nodes
            self.query(f"SELECT citus_set_coordinator_host('{host}', {port})", url)
            for number, _ in enumerate(others[:workers], 1):
                self.add_worker(url, number)
        return url

    def add_worker(self, url: str, number: int) -> None:
        """Add a worker, counted from 1, to the cluster of this database, without moving shards to it."""
        host, port = self.nodes[number]
        with alone("roles"):  # the command writes it there, for all databases
            self.query(f"SELECT citus_add_node('{host}', {port})", url)

    def distributed(self) -> str:
        """The URL of a new database whose tables are distributed, in BUCKETS buckets."""
        return self.new_database(like=self.url_of(self._template("distributed", self._make_distributed)))

    def drop_database(self, url: str) -> None:
        """Drop it on every node, and end the connections to it.

        First new connections are refused on every node: a node that drops the database blocks clients that connect, and
        would itself wait for a session that is connecting to another node that drops it (Citus has such sessions of its
        own).
        """
        name = urlsplit(url).path[1:]
        self._made.discard(name)
        if self.query(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):
            self._everywhere(self._closing(name))
            self._everywhere([f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'])

    def close(self) -> None:
        for name in self._made.difference(self._templates.values()):
            self.drop_database(self.url_of(name))
        for name in self._templates.values():
            self._everywhere([f"ALTER DATABASE {name} IS_TEMPLATE false", f"DROP DATABASE {name} WITH (FORCE)"])
        self._templates.clear()

    def _copy(self, template: str, name: str) -> None:
        create = f'CREATE DATABASE {name} TEMPLATE "{template}" STRATEGY FILE_COPY'
        self._everywhere([*self._closing(template), create])
        if template not in self._templates.values():
            self._everywhere([f'ALTER DATABASE "{template}" ALLOW_CONNECTIONS true'])

    def _closing(self, name: str) -> list[str]:
        """Statements that end all connections to the database and refuse new ones."""
        return [
            f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false',
            f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{name}'",
        ]

    def _template(self, kind: str, make: Callable[[str], None]) -> str:
        """The name of a template database, created when it is first needed."""
        if kind not in self._templates:
            name = f"test_{kind}_{uuid.uuid4().hex}"
            make(name)
            self._everywhere([f"ALTER DATABASE {name} ALLOW_CONNECTIONS false IS_TEMPLATE true"])
            self._templates[kind] = name
        return self._templates[kind]

    def _make_empty(self, name: str) -> None:
        self._everywhere([f"CREATE DATABASE {name} TEMPLATE template0"])
        self._everywhere(["CREATE EXTENSION citus"], database=name)

    def _make_distributed(self, name: str) -> None:
        migrate_now(load({}, database_url=self.new_database(name=name), buckets=BUCKETS), citus=True)

    # Statements.

    def url_of(self, database: str, node: int = 0) -> str:
        """The URL of a database on the coordinator or on another node."""
        parts = urlsplit(self.url)
        if node == 0:
            return urlunsplit(parts._replace(path=f"/{database}"))
        host, port = self.nodes[node]
        who = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{who}@{host}:{port}", path=f"/{database}"))

    def query(self, sql: str, database_url: str | None = None) -> list[Any]:
        """The rows of one statement, on a separate connection; may be called next to a running loop."""
        return in_a_loop(lambda: _fetch(database_url or self.url, [sql]))

    def two_phase_commits(self, url: str) -> list[tuple[int, str]]:
        """How many two-phase commits each node of this database has begun. A node writes a record of each, and removes
        finished ones from time to time (citus.recover_2pc_interval)."""
        count = "'SELECT count(*) FROM pg_dist_transaction'"
        found = self.query(f"SELECT nodeid, result::int FROM run_command_on_all_nodes({count}) ORDER BY 1", url)
        return [tuple(row) for row in found]

    def _everywhere(self, statements: Iterable[str], *, database: str = "postgres") -> None:
        """Execute the statements one after another, on all nodes at once."""
        texts = list(statements)

        async def run() -> None:
            urls = [self.url_of(database, node) for node in range(len(self.nodes))]
            await asyncio.gather(*(_fetch(url, texts) for url in urls))

        in_a_loop(run)


async def _fetch(url: str, statements: list[str]) -> list[Any]:
    """The rows of the last statement."""
    connection = await asyncpg.connect(url, ssl=False, timeout=SECONDS, server_settings=_QUIET)
    try:
        for sql in statements[:-1]:
            await connection.execute(sql, timeout=SECONDS)
        return list(await connection.fetch(statements[-1], timeout=SECONDS))
    finally:
        await connection.close(timeout=SECONDS)
