"""The database of one row of bench.ledger: a PostgreSQL, or a coordinator and two workers of Citus, that wait for the
disk like an operator's."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.citus.servers import started
from tests.postgres.server import PostgresServer, start_postgres

from bench.delayed import delayed
from farebox.settings import load
from farebox.storage.database import migrate_now

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Servers:
    """A migrated database, and who serves it: the coordinator first, where there is one."""

    url: str
    near_url: str
    """Without what `--away-ms` adds."""
    processes: list[PostgresServer]

    def cpu(self) -> list[float]:
        """Seconds that each has used so far."""
        return [_cpu_of(server) for server in self.processes]


@contextlib.contextmanager
def servers_of(engine: str, buckets: int, away_s: float) -> Iterator[Servers]:
    with contextlib.ExitStack() as stack:
        if engine == "citus":
            nodes = stack.enter_context(started(durable=True))
            near, processes = nodes.url, [nodes.coordinator, *nodes.workers]
        else:
            server = stack.enter_context(start_postgres(durable=True))
            near, processes = server.new_database(), [server]
        migrate_now(load({}, database_url=near, buckets=buckets), citus=engine == "citus")
        url = stack.enter_context(delayed(near, away_s)) if away_s else near
        yield Servers(url, near, processes)


def _cpu_of(server: PostgresServer) -> float:
    ticks = 0
    for pid in server.pids():
        with contextlib.suppress(FileNotFoundError):  # it has ended
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS
