"""`python -m bench.ledger`: the ledger alone. Durable pairs of a hold and its settling, per second and in CPU.

Many tasks of one event loop each hold, wait for the verdict, settle, wait, and start again, as calls do, but with
nothing in between and no call records. Beside it: how often this disk makes a small write durable, one after another,
since a group commit can only be as good as what it shares.
"""

import argparse
import asyncio
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvloop

from bench import machine
from bench.run import write
from farebox.clock import RandomIds, SystemClock
from farebox.ledger.audit import audit
from farebox.ledger.commands import Grant, Hold, Settle
from farebox.ledger.ledger import JobLedger
from farebox.storage.accounts import add_account
from farebox.storage.sql import Connection
from farebox.storage.sqlite import connect
from farebox.storage.sqlite.database import SqliteDatabase

TASKS = (64, 512)
ACCOUNTS = (1, 1000)
CREDIT = 10**15
HOLD, CHARGE = 100_000, 12_600
FOREVER = 2**53


async def measure(folder: Path, tasks: int, accounts: int, seconds: float) -> dict[str, Any]:
    """One row: a new database, so many accounts in turn, so many tasks."""
    database = SqliteDatabase(folder / f"ledger-{tasks}-{accounts}.db")
    try:
        ledger, ids = JobLedger(database), RandomIds(SystemClock())
        names = [f"account-{number}" for number in range(accounts)]
        await database.write(lambda connection: _open(connection, names))
        await asyncio.gather(*(_grant(ledger, name) for name in names))
        turn = itertools.cycle(names)
        await _pairs(ledger, ids, turn, tasks, min(seconds, 1))
        cpu, start = time.process_time(), time.monotonic()
        pairs = await _pairs(ledger, ids, turn, tasks, seconds)
        used, took = time.process_time() - cpu, time.monotonic() - start
        differences = len(list(audit(connect(database.path, readonly=True))))
    finally:
        await database.close()
    return {
        "tasks": tasks,
        "accounts": accounts,
        "pairs_per_second": round(pairs / took),
        "cpu_s_per_1000": round(used / pairs * 1000, 4),
        "differences": differences,
        "pace_ms": machine.pace_ms(),
        "load_average": os.getloadavg()[0],
    }


def _open(connection: Connection, names: list[str]) -> None:
    for name in names:
        add_account(connection, name, name, 1)


async def _grant(ledger: JobLedger, name: str) -> None:
    await ledger.do(Grant(account_id=name, grant_id="bench", amount=CREDIT, at=1))


async def _pairs(ledger: JobLedger, ids: RandomIds, turn: Iterator[str], tasks: int, seconds: float) -> int:
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
    return (
        f"{row['tasks']:>6}{row['accounts']:>10,}{row['pairs_per_second']:>10,}{row['cpu_s_per_1000']:>13.4f}  {books}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.ledger", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="length of each row (default 5)")
    parser.add_argument("--dir", type=Path, help="where the databases are made and removed again (default: temporary)")
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="farebox-bench-", dir=asked.dir) as temporary:
        folder = Path(temporary)
        syncs, system = machine.syncs_per_second(folder), machine.file_system(folder)
        print(f"this disk ({system}): {syncs:,.0f} durable small writes/s, one after another", flush=True)
        print(f"{'tasks':>6}{'accounts':>10}{'pairs/s':>10}{'CPU s/1,000':>13}  books", flush=True)
        for accounts, tasks in itertools.product(ACCOUNTS, TASKS):
            row = uvloop.run(measure(folder, tasks, accounts, asked.seconds))
            rows.append(row)
            print(line(row), flush=True)
    path = write("ledger", rows, file_system=system, syncs_per_second=round(syncs))
    print(f"written: {path.relative_to(Path(__file__).parent.parent)}")
    return int(any(row["differences"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
