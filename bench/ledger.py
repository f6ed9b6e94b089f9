"""`python -m bench.ledger [--engine sqlite|postgres]`: the ledger alone. Durable pairs of a hold and its settling, per
second and in CPU: this process's, and PostgreSQL's where it is the engine. Its server is started for the run.

Many tasks of one event loop each hold, wait for the verdict, settle, wait, and start again, as calls do, but with
nothing in between and no call records. Beside it: how often this disk makes a small write durable, one after another,
since a group commit can only be as good as what it shares.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import uvloop
from tests.postgres.server import PostgresServer, start_postgres

from bench import machine
from bench.run import write
from farebox.clock import RandomIds, SystemClock
from farebox.ledger.audit import audit
from farebox.ledger.commands import Grant, Hold, Settle
from farebox.ledger.ledger import Ledger, ledger_of
from farebox.ledger.posting import apply
from farebox.storage.accounts import add_account
from farebox.storage.postgres.database import PostgresDatabase
from farebox.storage.sql import Connection
from farebox.storage.sqlite.database import SqliteDatabase

TASKS = (1, 16, 64, 512)
ACCOUNTS = (1, 10_000)
STATEMENT_SECONDS = 60.0
CREDIT = 10**15
HOLD, CHARGE = 100_000, 12_600
FOREVER = 2**53


async def measure(
    folder: Path, server: PostgresServer | None, tasks: int, accounts: int, seconds: float
) -> dict[str, Any]:
    """One row: a new database, so many accounts in turn, so many tasks."""
    async with _database(folder, server, f"ledger-{tasks}-{accounts}.db") as database:
        ids = RandomIds(SystemClock())
        ledger = ledger_of(database, ids.log_id())
        names = [f"account-{number}" for number in range(accounts)]
        await database.write(lambda connection: _open(connection, names))
        turn = itertools.cycle(names)
        await _pairs(ledger, ids, turn, tasks, min(seconds, 1))
        cpu, server_cpu, start = time.process_time(), _server_cpu(server), time.monotonic()
        pairs = await _pairs(ledger, ids, turn, tasks, seconds)
        used, took = time.process_time() - cpu, time.monotonic() - start
        server_used = _server_cpu(server) - server_cpu
        if server is not None and isinstance(database, PostgresDatabase):
            # As the server does it by itself, a minute later: the audit's plans depend on it.
            server.query("ANALYZE", database.url)
        differences = await database.scan(lambda connection: len(list(audit(connection))))
        slow: int = getattr(ledger, "slow", 0)  # what its fast path has left to ledger.posting: none of this
        await ledger.close()
    return {
        "engine": "postgres" if server else "sqlite",
        "tasks": tasks,
        "accounts": accounts,
        "pairs_per_second": round(pairs / took),
        "cpu_s_per_1000": round(used / pairs * 1000, 4),
        "database_cpu_s_per_1000": round(server_used / pairs * 1000, 4),
        "differences": differences,
        "slow_commands": slow,
        "pace_ms": machine.pace_ms(),
        "load_average": os.getloadavg()[0],
    }


@contextlib.asynccontextmanager
async def _database(
    folder: Path, server: PostgresServer | None, name: str
) -> AsyncIterator[SqliteDatabase | PostgresDatabase]:
    database: SqliteDatabase | PostgresDatabase
    if server is None:
        database = SqliteDatabase(folder / name)
    else:
        database = await PostgresDatabase.open(server.new_database(), timeout=STATEMENT_SECONDS)
    try:
        yield database
    finally:
        await database.close()


def _server_cpu(server: PostgresServer | None) -> float:
    """Seconds of CPU that the server's processes have used so far; 0 without one."""
    ticks = 0
    for pid in server.pids() if server else ():
        with contextlib.suppress(FileNotFoundError):  # it has ended
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _open(connection: Connection, names: list[str]) -> None:
    for name in names:
        add_account(connection, name, name, 1)
        apply(connection, Grant(account_id=name, grant_id="bench", amount=CREDIT, at=1))


async def _pairs(ledger: Ledger, ids: RandomIds, turn: Iterator[str], tasks: int, seconds: float) -> int:
    """Pairs done by all tasks together."""
    stop = time.monotonic() + seconds

    async def one() -> int:
        done = 0
        while time.monotonic() < stop:
            name, hold_id = next(turn), ids.log_id()
            held = await ledger.do(Hold(account_id=name, hold_id=hold_id, amount=HOLD, at=2, expires_at=FOREVER))
            settled = await ledger.do(Settle(account_id=name, hold_id=hold_id, amount=CHARGE, at=3))
            assert held.ok
            assert settled.amount == CHARGE
            done += 1
        return done

    return sum(await asyncio.gather(*(one() for _ in range(tasks))))


def line(row: dict[str, Any]) -> str:
    books = f"{row['differences']} differences" if row["differences"] else "clean"
    books += f", {row['slow_commands']} SLOW COMMANDS" if row["slow_commands"] else ""
    return (
        f"{row['tasks']:>6}{row['accounts']:>10,}{row['pairs_per_second']:>10,}{row['cpu_s_per_1000']:>13.4f}"
        f"{row['database_cpu_s_per_1000']:>13.4f}  {books}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.ledger", description=__doc__)
    parser.add_argument("--engine", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--seconds", type=float, default=5, help="length of each row (default 5)")
    parser.add_argument("--dir", type=Path, help="where the databases are made and removed again (default: temporary)")
    arguments = parser.parse_args()
    rows = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="farebox-bench-", dir=arguments.dir)))
        server = stack.enter_context(start_postgres(durable=True)) if arguments.engine == "postgres" else None
        syncs, system = machine.syncs_per_second(folder), machine.file_system(folder)
        print(f"this disk ({system}): {syncs:,.0f} durable small writes/s, one after another", flush=True)
        print(f"{'tasks':>6}{'accounts':>10}{'pairs/s':>10}{'CPU s/1,000':>13}{'database':>13}  books", flush=True)
        for accounts, tasks in itertools.product(ACCOUNTS, TASKS):
            row = uvloop.run(measure(folder, server, tasks, accounts, arguments.seconds))
            rows.append(row)
            print(line(row), flush=True)
    path = write(f"ledger-{arguments.engine}", rows, file_system=system, syncs_per_second=round(syncs))
    print(f"written: {path.relative_to(Path(__file__).parent.parent)}")
    return int(any(row["differences"] or row["slow_commands"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
