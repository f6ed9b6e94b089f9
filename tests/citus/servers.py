"""A Citus cluster that the tests start on loopback, and whose nodes may be killed.

FAREBOX_TEST_CITUS_BIN names the folder of the programs of a PostgreSQL with Citus. A worker may have a synchronous
standby.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import asyncpg

from tests.postgres.server import PostgresServer, standby_of, start_postgres, wait_for

PROGRAMS = os.environ.get("FAREBOX_TEST_CITUS_BIN", "")
DATABASE = "farebox"
_SETTINGS = {
    "shared_preload_libraries": "citus",
    "wal_level": "logical",
    "max_prepared_transactions": "200",
    "max_worker_processes": "32",
    "max_replication_slots": "20",
    "max_wal_senders": "20",
    "citus.node_conninfo": "sslmode=disable",
    "citus.enable_statistics_collection": "off",
    "citus.recover_2pc_interval": "2s",
}


class Nodes:
    """A coordinator and workers, all with a database that has the extension. `place` closes them."""

    def __init__(self, place: contextlib.ExitStack, programs: str, durable: bool, settings: Mapping[str, str]) -> None:
        self._place = place
        self._programs = Path(programs)
        self._durable = durable
        self._settings = {**_SETTINGS, **settings}
        self.coordinator = self._start()
        self.url = self.coordinator.url_of(DATABASE)
        self.query(f"SELECT citus_set_coordinator_host('127.0.0.1', {self.coordinator.port})")
        self.workers: list[PostgresServer] = []

    def query(self, sql: str) -> list[tuple[object, ...]]:
        """The rows of a statement on the coordinator."""
        return [tuple(row) for row in self.coordinator.query(sql, self.url)]

    @property
    def all(self) -> list[PostgresServer]:
        return [self.coordinator, *self.workers]

    def add_worker(self) -> PostgresServer:
        """Add a worker without moving shards to it."""
        worker = self._start()
        self.query(f"SELECT citus_add_node('127.0.0.1', {worker.port})")
        self.workers.append(worker)
        return worker

    def remove_worker(self, worker: PostgresServer) -> None:
        """Move everything off a worker, and remove it."""
        self.clean_up()
        self.query(f"SELECT citus_drain_node('127.0.0.1', {worker.port}, shard_transfer_mode => 'block_writes')")
        self.clean_up()  # once the node is removed, Citus no longer knows where its remains were, and keeps the records

        def is_removed() -> bool:
            try:
                self.query(f"SELECT citus_remove_node('127.0.0.1', {worker.port})")
            except asyncpg.InternalServerError as error:
                if "tuple concurrently deleted" not in str(error):
                    raise
                return False  # Citus was itself removing a record of a two-phase commit
            return True

        wait_for(is_removed, "the node is removed")
        self.workers.remove(worker)
        worker.close()

    def clean_up(self) -> None:
        """Remove what moves have left behind: a shard cannot move to a node with its remains."""

        def clean() -> bool:
            self.query("CALL citus_cleanup_orphaned_resources()")
            return not self.query("SELECT 1 FROM pg_dist_cleanup")

        wait_for(clean, "what moves have left is removed")

    def add_standby(self, server: PostgresServer) -> PostgresServer:
        """Add a standby for which every commit of the node waits from here on."""
        return self._place.enter_context(standby_of(server, synchronous=True))

    def replace(self, worker: PostgresServer, standby: PostgresServer) -> None:
        """Replace a lost worker with its standby."""
        standby.promote()
        found = f"SELECT nodeid FROM pg_dist_node WHERE nodeport = {worker.port}"
        self.query(f"SELECT citus_update_node(({found}), '127.0.0.1', {standby.port})")
        self.workers[self.workers.index(worker)] = standby

    def replace_coordinator(self, standby: PostgresServer) -> None:
        """Replace the lost coordinator with its standby, at the same port."""
        standby.stop()
        standby.port = self.coordinator.port
        standby.start()
        standby.promote()
        self.coordinator = standby

    def _start(self) -> PostgresServer:
        server = self._place.enter_context(
            start_postgres(durable=self._durable, settings=self._settings, programs=self._programs)
        )
        server.new_database(name=DATABASE)
        server.query("CREATE EXTENSION citus", server.url_of(DATABASE))
        return server


@contextlib.contextmanager
def started(
    workers: int = 2, *, programs: str = PROGRAMS, durable: bool = False, settings: Mapping[str, str] | None = None
) -> Iterator[Nodes]:
    with contextlib.ExitStack() as place:
        nodes = Nodes(place, programs, durable, settings or {})
        for _ in range(workers):
            nodes.add_worker()
        yield nodes
