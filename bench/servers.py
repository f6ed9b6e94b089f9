"""The database of one row of bench.ledger: a PostgreSQL, or a coordinator and two workers of Citus, that sync to disk
like an operator's."""

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
    """A migrated database and its servers: the coordinator first, if there is one."""

    url: str
    near_url: str
    """The URL without the delay that `--away-ms` adds."""
    processes: list[PostgresServer]

    def cpu(self) -> list[float]:
        """CPU seconds that each server has used so far."""
        return [_cpu_of(server) for server in self.processes]


@contextlib.contextmanager
def servers_of(engine: str, buckets: int, away_s: float, *, workers: int = 2, cap: float = 0) -> Iterator[Servers]:
    """`workers` is the number of Citus workers; with `cap`, each may use this part of a core."""
    with contextlib.ExitStack() as stack:
        if engine == "citus":
            nodes = stack.enter_context(started(workers, durable=True))
            for worker in nodes.workers:
                if cap:
                    stack.enter_context(capped(worker.pids(), cap))
            near, processes = nodes.url, [nodes.coordinator, *nodes.workers]
        else:
            server = stack.enter_context(start_postgres(durable=True))
            near, processes = server.new_database(), [server]
        migrate_now(load({}, database_url=near, buckets=buckets), citus=engine == "citus")
        url = stack.enter_context(delayed(near, away_s)) if away_s else near
        yield Servers(url, near, processes)


@contextlib.contextmanager
def capped(pids: list[int], cores: float) -> Iterator[None]:
    """Limit these processes and their children, together, to this many cores. Needs root, and control groups of either
    version."""
    old, period = Path("/sys/fs/cgroup/cpu"), 20_000
    group = (old if old.exists() else Path("/sys/fs/cgroup")) / f"farebox-bench-{pids[0]}"
    group.mkdir()
    try:
        if old.exists():
            (group / "cpu.cfs_period_us").write_text(str(period))
            (group / "cpu.cfs_quota_us").write_text(str(round(period * cores)))
        else:
            (group / "cpu.max").write_text(f"{round(period * cores)} {period}")
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
        yield
        for left in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(left)
    finally:
        group.rmdir()


def _cpu_of(server: PostgresServer) -> float:
    ticks = 0
    for pid in server.pids():
        with contextlib.suppress(FileNotFoundError):  # it has ended
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS
