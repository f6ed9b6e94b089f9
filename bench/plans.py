"""Which SQL a route runs, how much work it is for SQLite, and how SQLite finds the rows.

The server runs under bench.traced. Requests are sent one at a time, so whatever is traced meanwhile belongs to the
request, except for statements that the idle server runs too. Steps of SQLite's virtual machine are exact: the same in
every run.
"""

import contextlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw.ext

from farebox.storage.sqlite import SqliteConnection, connect

QUIET_SECONDS = 6.0
"""Seconds for which the server is left idle to see what it runs by itself."""
SETTLED_SECONDS = 0.15
GROWS = 1.5
STEPS_MIN = 1_000
"""A statement grows if it takes this many times the steps on the larger database, and at least this many."""

SQL_SHOWN = 260

START, ALONE = "start", "alone"
_INNER = re.compile(r"^SCAN (\(|json_each|entry|CONSTANT|SUBQUERY|[0-9]+-ROW)|VIRTUAL TABLE")


@dataclass(frozen=True, slots=True)
class Work:
    """The work of one statement for one request, summed over its runs."""

    runs: int
    steps: int
    scanned: int
    """Rows visited in scans of a whole table or index."""
    sorts: int


Traced = dict[str, dict[str, Work]]
"""Route → SQL → its work."""


class Tracer:
    """Reads what bench.traced writes, request by request."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read = 0
        self.found: Traced = {}
        self.found[START] = self._new()
        time.sleep(QUIET_SECONDS)
        self.found[ALONE] = self._new()

    def request(self, name: str, send: Callable[[], object]) -> None:
        """Send it twice and keep the second trace: the first also fills the server's caches."""
        for _ in range(2):
            self._new()
            send()
            time.sleep(SETTLED_SECONDS)
            new = self._new()
        self.found[name] = {sql: work for sql, work in new.items() if sql not in self.found[ALONE]}

    def _new(self) -> dict[str, Work]:
        with self._file.open() as file:
            file.seek(self._read)
            lines = [line for line in file if line.endswith("\n")]
        self._read += sum(len(line.encode()) for line in lines)
        found: dict[str, Work] = {}
        for line in lines:
            sql, steps, scanned, sorts, _ = json.loads(line)
            had = found.get(sql, Work(0, 0, 0, 0))
            found[sql] = Work(had.runs + 1, had.steps + steps, had.scanned + scanned, had.sorts + sorts)
        return found


def plan(connection: SqliteConnection, sql: str) -> list[str]:
    """SQLite's plan, one line per step; empty for a statement without a plan."""
    if not sql.upper().startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")):
        return []
    tree = apsw.ext.query_info(connection, sql, explain_query_plan=True).query_plan
    steps, lines = list(tree.sub or ()) if tree else [], []
    while steps:
        step = steps.pop(0)
        lines.append(step.detail)
        steps = list(step.sub or ()) + steps
    return lines


def scans(lines: list[str]) -> list[str]:
    """The steps of a plan that scan a whole table or index; scans of a subquery or of JSON do not count."""
    return [line for line in lines if line.startswith("SCAN ") and not _INNER.search(line)]


def compare(database: Path, smallest: Traced, largest: Traced) -> list[dict[str, Any]]:
    """Every statement that takes more steps on the larger database, or scans, with its plan."""
    found = []
    with contextlib.closing(connect(database, readonly=True)) as connection:
        for route, statements in largest.items():
            for sql, work in statements.items():
                before = smallest.get(route, {}).get(sql)
                ratio = round(work.steps / before.steps, 2) if before and before.steps else None
                grows = work.steps >= STEPS_MIN and ratio is not None and ratio >= GROWS
                lines = plan(connection, sql)
                if grows or scans(lines):
                    steps = (before.steps if before else None, work.steps)
                    facts = {"grows": grows, "ratio": ratio, "steps": steps, "scanned": work.scanned, "plan": lines}
                    found.append({"route": route, "sql": sql, **facts, "runs": work.runs, "sorts": work.sorts})
    return sorted(found, key=lambda item: (not item["grows"], -item["steps"][1]))


def totals(traced: Traced) -> dict[str, tuple[int, int]]:
    """Route → statements run, steps."""
    return {
        route: (sum(work.runs for work in of.values()), sum(work.steps for work in of.values()))
        for route, of in traced.items()
    }


def text(item: dict[str, Any]) -> str:
    """One of compare's findings, as readable text."""
    before, now = item["steps"]
    times = f", {item['ratio']:g} times" if item["ratio"] else ""
    head = f"{item['route']}: {before if before is not None else '?':,} -> {now:,} steps{times}"
    scanned = f", {item['scanned']:,} rows scanned" if item["scanned"] else ""
    sql = item["sql"] if len(item["sql"]) <= SQL_SHOWN else item["sql"][:SQL_SHOWN] + "..."
    return "\n".join([head + scanned, f"    {sql}", *(f"        {line}" for line in item["plan"])])
