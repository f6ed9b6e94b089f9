"""`python -m bench.ledger [--engine sqlite|postgres|citus]`: the ledger alone. Durable hold-and-settle pairs per
second, the CPU of this process and of the database's processes (which are started for the run), and the duration of
`farebox check` afterwards. Citus is a coordinator and workers (FAREBOX_TEST_CITUS_BIN: tests/citus/servers.py). To
compare engines, alternate them with the same numbers of buckets and pairs: `--engine postgres,citus,postgres,citus
--buckets 8 --pairs 20000`. `--cap 0.2` limits each worker to this part of a core, which shows the value of more workers
even on a small machine. `--away-ms` adds a round trip to the database.

Many tasks of one event loop each hold, wait for the verdict, settle, wait, and start again, as calls do, but with
nothing in between and no call records. It also measures how many small writes per second this disk makes durable one
after another, because that limits a group commit.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from bench import machine
from bench.run import write
from bench.servers import Servers, servers_of
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
ENGINES = ("sqlite", "postgres", "citus")
STATEMENT_SECONDS = 60.0
CREDIT = 10**15
HOLD, CHARGE = 100_000, 12_600
FOREVER = 2**53


@dataclass(frozen=True, slots=True)
class Case:
    engine: str
    tasks: int
    accounts: int
    buckets: int
    away_s: float
    workers: int
    cap: float
    seconds: float
    pairs: int
    """A row ends after this many pairs even if time is left; 0: no limit."""


async def measure(folder: Path, servers: Servers | None, case: Case) -> dict[str, Any]:
    """One row: a new database, with this many tasks that use this many accounts in turn."""
    async with _database(folder, servers, case) as database:
        ids = RandomIds(SystemClock())
        ledger = ledger_of(database, ids.log_id())
        names = [f"account-{number}" for number in range(case.accounts)]
        await database.write(lambda connection: _open(connection, names, case.buckets))
        turn = itertools.cycle(names)
        await _pairs(ledger, ids, turn, case.tasks, min(case.seconds, 1), 0)
        cpu, before, start = time.process_time(), _cpu(servers), time.monotonic()
        took_each = await _pairs(ledger, ids, turn, case.tasks, case.seconds, case.pairs)
        pairs, used, took = len(took_each), time.process_time() - cpu, time.monotonic() - start
        database_used = [now - then for now, then in zip(_cpu(servers), before, strict=True)]
        if servers is not None:
            # The server does this by itself after a minute: the audit's plans depend on it.
            servers.processes[0].query("ANALYZE", servers.near_url)
        cpu, before, start = time.process_time(), _cpu(servers), time.monotonic()
        differences = await database.scan(lambda connection: len(list(audit(connection))))
        check_cpu = time.process_time() - cpu + sum(_cpu(servers)) - sum(before)
        check_took = time.monotonic() - start
        slow: int = getattr(ledger, "slow", 0)  # what its fast path has left to ledger.posting: none of this
        await ledger.close()
    row = {
        "engine": case.engine,
        "tasks": case.tasks,
        "accounts": case.accounts,
        "buckets": case.buckets,
        "away_ms": case.away_s * 1000,
        "pairs_per_second": round(pairs / took),
        "pair_p50_ms": round(sorted(took_each)[pairs // 2] * 1000, 2),
        "cpu_s_per_1000": round(used / pairs * 1000, 4),
        "database_cpu_s_per_1000": round(sum(database_used) / pairs * 1000, 4),
        "pairs": pairs,
        "check_s": round(check_took, 2),
        "check_cpu_s": round(check_cpu, 2),
        "differences": differences,
        "slow_commands": slow,
        "pace_ms": machine.pace_ms(),
        "load_average": os.getloadavg()[0],
    }
    if case.engine == "citus":
        row["coordinator_cpu_s_per_1000"] = round(database_used[0] / pairs * 1000, 4)
        row |= {"workers": case.workers, "cap": case.cap}
    return row


@contextlib.asynccontextmanager
async def _database(
    folder: Path, servers: Servers | None, case: Case
) -> AsyncIterator[SqliteDatabase | PostgresDatabase]:
    database: SqliteDatabase | PostgresDatabase
    if servers is None:
        database = SqliteDatabase(folder / f"ledger-{case.tasks}-{case.accounts}.db")
    else:
        database = await PostgresDatabase.open(servers.url, timeout=STATEMENT_SECONDS, buckets=case.buckets)
    try:
        yield database
    finally:
        await database.close()


def _cpu(servers: Servers | None) -> list[float]:
    """CPU seconds that each of the database's servers has used so far."""
    return [] if servers is None else servers.cpu()


def _open(connection: Connection, names: list[str], buckets: int) -> None:
    for name in names:
        add_account(connection, name, name, 1, buckets)
        apply(connection, Grant(account_id=name, grant_id="bench", amount=CREDIT, at=1))


async def _pairs(
    ledger: Ledger, ids: RandomIds, turn: Iterator[str], tasks: int, seconds: float, most: int
) -> list[float]:
    """The duration in seconds of each pair, over all tasks; at most `most` pairs, unless it is 0."""
    stop = time.monotonic() + seconds
    left = itertools.repeat(0) if most == 0 else iter(range(most))

    async def one() -> list[float]:
        done: list[float] = []
        while (began := time.monotonic()) < stop and next(left, None) is not None:
            name, hold_id = next(turn), ids.log_id()
            held = await ledger.do(Hold(account_id=name, hold_id=hold_id, amount=HOLD, at=2, expires_at=FOREVER))
            settled = await ledger.do(Settle(account_id=name, hold_id=hold_id, amount=CHARGE, at=3))
            assert held.ok
            assert settled.amount == CHARGE
            done.append(time.monotonic() - began)
        return done

    return [each for found in await asyncio.gather(*(one() for _ in range(tasks))) for each in found]


_HEADINGS = f"{'tasks':>6}{'accounts':>10}{'pairs/s':>10}{'CPU s/1,000':>13}{'database':>13}{'check CPU':>11}  books"


def line(row: dict[str, Any]) -> str:
    books = f"{row['differences']} differences" if row["differences"] else "clean"
    books += f", {row['slow_commands']} SLOW COMMANDS" if row["slow_commands"] else ""
    return (
        f"{row['tasks']:>6}{row['accounts']:>10,}{row['pairs_per_second']:>10,}{row['cpu_s_per_1000']:>13.4f}"
        f"{row['database_cpu_s_per_1000']:>13.4f}{row['check_cpu_s']:>11.2f}  {row['engine']}, {books}"
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _engines(text: str) -> list[str]:
    found = text.split(",")
    if not set(found) <= set(ENGINES):
        raise argparse.ArgumentTypeError(f"each must be one of {', '.join(ENGINES)}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.ledger", description=__doc__)
    parser.add_argument(
        "--engine", type=_engines, default=["sqlite"], help="one, or several that alternate (default sqlite)"
    )
    parser.add_argument("--seconds", type=float, default=5, help="length of each row (default 5)")
    parser.add_argument("--pairs", type=int, default=0, help="end a row after this many pairs, even if time is left")
    parser.add_argument(
        "--workers", type=_numbers, default=(2,), help="workers of Citus, one number per row (default 2)"
    )
    parser.add_argument(
        "--cap", type=float, default=0, help="limit of each worker, as a part of a core; needs root (default: none)"
    )
    parser.add_argument(
        "--dir", type=Path, help="folder for the databases, which are removed afterwards (default: temporary)"
    )
    parser.add_argument(
        "--tasks", type=_numbers, default=TASKS, help="callers, one number per row (default 1,16,64,512)"
    )
    parser.add_argument("--accounts", type=_numbers, default=ACCOUNTS, help="accounts (default 1,10000)")
    parser.add_argument("--buckets", type=int, default=1, help="buckets over which the accounts are spread (default 1)")
    parser.add_argument(
        "--away-ms", type=_numbers, default=(0,), help="round trips to add, one number per row (default 0)"
    )
    parser.add_argument("--name", help="name under which the results are stored (default: ledger-ENGINE)")
    arguments = parser.parse_args()
    name = arguments.name or f"ledger-{arguments.engine[-1]}"
    with tempfile.TemporaryDirectory(prefix="farebox-bench-", dir=arguments.dir) as place:
        folder = Path(place)
        system, syncs = machine.file_system(folder), machine.syncs_per_second(folder)
        print(f"this disk ({system}): {syncs:,.0f} durable small writes/s, one after another", flush=True)
        print(_HEADINGS, flush=True)
        rows = [_row(folder, case) for case in _cases(arguments)]
    path = write(name, rows, file_system=system, syncs_per_second=round(syncs))
    print(f"written: {path.relative_to(Path(__file__).parent.parent)}")
    return int(any(row["differences"] or row["slow_commands"] for row in rows))


def _cases(arguments: argparse.Namespace) -> Iterator[Case]:
    of = arguments
    for engine, accounts, tasks, workers, away_ms in itertools.product(
        of.engine, of.accounts, of.tasks, of.workers, of.away_ms
    ):
        yield Case(engine, tasks, accounts, of.buckets, away_ms / 1000, workers, of.cap, of.seconds, of.pairs)


def _row(folder: Path, case: Case) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        servers = None
        if case.engine != "sqlite":
            servers = stack.enter_context(
                servers_of(case.engine, case.buckets, case.away_s, workers=case.workers, cap=case.cap)
            )
        row = uvloop.run(measure(folder, servers, case))
    print(line(row), flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())
