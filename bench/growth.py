"""`python -m bench.growth`: does anything become slower as accounts and calls increase?

Fills databases of several sizes (bench.fill), serves each, and times the same requests on all of them, one after
another from one caller. The requests are for three kinds of account: `usual` ones, whose history is the same at every
size, so that any slowdown is caused by the other accounts; `many`, a large part of all accounts in turn; and one
`busy` account with a tenth of all calls. Then each request is traced (bench.plans) to find the SQL whose work grows,
and the SQL that scans a table.

The exit status is 0 if every figure agreed with the books, every charge was exact, and the audit of a sample was clean.
"""

import argparse
import http.client
import json
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench import ask, machine, plans
from bench.engines import NAMES, SQLITE, Engine
from bench.fill import OTHER, Made, Wanted, differs, fill
from bench.prepared import exit_status, prepared
from bench.record import shown, write
from bench.run import CHAT, Bench, Case, failed
from bench.served import Broken, Farebox, Mock, serving

USUAL_ACCOUNTS, USUAL_CALLS, USUAL_TOP_UPS = 100, 100, 12
BUSY_PART = 10
"""One call in this many is made by the busy account, …"""
CALLS_OF_A_TOP_UP = 100
"""… which buys credit for this many calls at a time."""
MANY = 2_000
SAMPLE = 200

USUAL, BUSY = "usual", "busy"
CASES: tuple[tuple[str, str], ...] = (
    ("balance", "many"),
    ("usage", USUAL),
    ("usage", BUSY),
    ("invoices", USUAL),
    ("invoices", BUSY),
    ("transfers", USUAL),
    ("transfers", BUSY),
    ("statement", USUAL),
    ("statement", BUSY),
    ("logs", USUAL),
    ("logs", BUSY),
    ("admission", "many"),  # last: it changes the figures of the reads above
    ("admission", BUSY),
)


@dataclass(frozen=True, slots=True)
class Size:
    accounts: int
    calls: int

    def __str__(self) -> str:
        return f"{self.accounts:,} accounts, {self.calls:,} calls"

    def wanted(self) -> list[Wanted]:
        """All accounts: the busy one, the usual ones, and the others, which share the remaining calls."""
        busy = self.calls // BUSY_PART
        others = self.accounts - 1 - USUAL_ACCOUNTS
        rest = self.calls - busy - USUAL_ACCOUNTS * USUAL_CALLS
        each, more = divmod(rest, others)
        usual = Wanted(USUAL, USUAL_CALLS, USUAL_TOP_UPS)
        fewer, one_more = Wanted(OTHER, each, 1), Wanted(OTHER, each + 1, 1)
        return [
            Wanted(BUSY, busy, max(busy // CALLS_OF_A_TOP_UP, 1)),
            *(usual for _ in range(USUAL_ACCOUNTS)),
            *(one_more if number < more else fewer for number in range(others)),
        ]


class Grown:
    """One size, filled: measures it, and traces its SQL."""

    def __init__(self, size: Size, folder: Path, programs: dict[str, Path], mock: Mock, engine: Engine) -> None:
        begun = time.monotonic()
        made = fill(folder, mock, size.wanted(), engine=engine, every=max(1, size.accounts // MANY))
        self.filled_s = round(time.monotonic() - begun)
        self._engine = engine
        self._size = size
        self._folder = folder
        self._programs = programs
        self._mock = mock
        self._groups = {
            USUAL: [one for one in made if one.wanted.kind == USUAL],
            BUSY: [one for one in made if one.wanted.kind == BUSY],
            "many": made[:: max(1, len(made) // MANY)],
        }
        self._sample = [one.account_id for one in made[:: max(1, len(made) // SAMPLE)]]
        self._sample += [one.account_id for group in (USUAL, BUSY) for one in self._groups[group]]
        self.wrong = differs(folder, self._sample, engine)

    def measure(self, arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The rows of all cases, and facts about the whole run."""
        begun = time.monotonic()
        with serving(self._folder, self._folder / "targets", engine=self._engine) as served:
            start_s = round(time.monotonic() - begun, 2)
            facts: dict[str, Any] = {"start_s": start_s, "database_mb": served.database_mb(), "filled_s": self.filled_s}
            facts["memory_at_start_mb"] = machine.memory_mb(served.pid)["pss"]
            self.wrong += [
                found
                for read in ask.READS
                for group in (USUAL, BUSY)
                if (found := ask.wrong(served, read, self._groups[group][0]))
            ]
            measured = [self._case(served, what, group, arguments) for what, group in CASES]
            paces = [row["pace_ms"] for row in measured]
            facts["pace_ms"] = [min(paces), max(paces)]
            facts["memory_mb"] = machine.memory_mb(served.pid)["pss"]
        self.wrong += differs(self._folder, self._sample, self._engine)
        return measured, facts

    def _case(self, served: Farebox, what: str, group: str, arguments: argparse.Namespace) -> dict[str, Any]:
        seconds, warm = arguments.seconds, arguments.warm
        file = self._folder / "targets-case"
        if what == "admission":
            calls = replace(served, targets=self._call_targets(file, self._groups[group]))
            bench = Bench(self._programs, self._mock, calls)
            found = bench.measure(Case("admission", 1), seconds=seconds, warm=warm)
            found["failed"] = int(failed(found))
            if not found["exact"]:
                self.wrong.append(f"charged {found['charged_nanos']} instead of {found['expected_nanos']}")
        else:
            targets = ask.write_targets(file, ask.READ[what], self._groups[group])
            program = self._programs["load"]
            found = ask.measure(program, served, targets, connections=1, seconds=seconds, warm=warm)
        if found["failed"]:
            self.wrong.append(f"{what} of {group}: {found['failed']} answers failed")
        return {**found, "case": what, "of": group, "accounts": self._size.accounts, "calls": self._size.calls}

    @staticmethod
    def _call_targets(file: Path, accounts: Sequence[Made]) -> Path:
        path = "/v1/{}/default/openai/chat/completions\tauthorization: Bearer {}\n"
        file.write_text("".join(path.format(made.account_id, made.token) for made in accounts))
        return file

    def trace(self) -> plans.Traced | None:
        """SQLite's work for each request; empty on PostgreSQL, which does not count it."""
        if self._engine is not SQLITE:
            return None
        log = self._folder / "sql.log"
        with serving(self._folder, self._folder / "targets", under=("bench.traced", str(log))) as served:
            tracer = plans.Tracer(log)
            for what, group in CASES:
                made = self._groups[group][0]
                send = partial(_call, served, made) if what == "admission" else partial(_get, served, what, made)
                tracer.request(f"{what} {group}", send)
        return tracer.found


def _get(served: Farebox, what: str, made: Made) -> None:
    ask.get(served, ask.READ[what], made)


def _call(served: Farebox, made: Made) -> None:
    headers = {"authorization": f"Bearer {made.token}", "content-type": "application/json"}
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)) as connection:
        connection.request("POST", f"/v1/{made.account_id}/default/openai/chat/completions", json.dumps(CHAT), headers)
        response = connection.getresponse()
        text = response.read()
    if response.status != 200:
        raise Broken(f"a call was answered {response.status}: {text[:500]!r}")


def table(sizes: Sequence[Size], measured: list[list[dict[str, Any]]]) -> str:
    """One line per case: its times and SQLite's steps at each size, and the ratio of the largest size to the
    smallest."""
    heads = "".join(f"{f'{size.accounts:,} / {size.calls:,}':>36}" for size in sizes)
    columns = f"{'p50 ms':>9}{'p99 ms':>8}{'CPU ms':>8}{'SQL steps':>11}"
    ratio_heads = f"{'p50':>8}{'CPU':>7}{'steps':>8}"
    lines = [f"{'':<19}{heads}{'largest / smallest':>23}", f"{'case':<19}{columns * len(sizes)}{ratio_heads}"]
    for number, first in enumerate(measured[0]):
        name = f"{first['case']} {first['of']}"
        cells, last = "", measured[-1][number]
        for of in measured:
            row = of[number]
            cells += f"{row['p50_ms']:>9.2f}{row['p99_ms']:>8.2f}{row['cpu_s_per_1000']:>8.3f}{row['steps'] or '':>11}"
        p50, cpu = (last[key] / (first[key] or 1) for key in ("p50_ms", "cpu_s_per_1000"))
        steps = f"{last['steps'] / first['steps']:>8.2f}" if first["steps"] else ""
        lines.append(f"{name:<19}{cells}{p50:>8.2f}{cpu:>7.2f}{steps}")
    return "\n".join(lines)


def main() -> int:
    return exit_status(partial(_run, _arguments()))


def _run(arguments: argparse.Namespace) -> int:
    sizes = [Size(accounts, calls) for accounts, calls in zip(arguments.accounts, arguments.calls, strict=True)]
    measured, facts, wrong, found = [], [], list[str](), list[dict[str, Any]]()
    traced: list[plans.Traced | None] = []
    for size in sizes:
        print(f"{size}:", file=sys.stderr, flush=True)
        with prepared(arguments.engine, arguments.dir) as (programs, folder, mock, engine):
            grown = Grown(size, folder, programs, mock, engine)
            rows, fact = grown.measure(arguments)
            traced.append(grown.trace())
            measured.append([{**row, "steps": _steps(traced[-1], row)} for row in rows])
            facts.append({"size": str(size), "accounts": size.accounts, "calls": size.calls, **fact})
            wrong += grown.wrong
            if size == sizes[-1] and traced[0] and traced[-1]:
                found = plans.compare(folder / "farebox.db", traced[0], traced[-1])
    print(table(sizes, measured))
    _say(facts, found, wrong)
    every = [row for rows in measured for row in rows]
    path = write(f"growth-{arguments.engine}", every, engine=arguments.engine, sizes=facts, sql=found, wrong=wrong)
    print(f"written: {shown(path)}")
    return int(bool(wrong))


def _steps(traced: plans.Traced | None, row: dict[str, Any]) -> int | None:
    """SQLite's steps for one request of this case."""
    return None if traced is None else plans.totals(traced)[f"{row['case']} {row['of']}"][1]


def _say(facts: list[dict[str, Any]], found: list[dict[str, Any]], wrong: list[str]) -> None:
    for fact in facts:
        print(
            f"{fact['size']}: filled in {fact['filled_s']} s, database {fact['database_mb']:,.0f} MB, "
            f"started in {fact['start_s']:.1f} s, "
            f"PSS {fact['memory_at_start_mb']:.0f} MB at the start and {fact['memory_mb']:.0f} MB at the end, "
            f"pace {fact['pace_ms'][0]:.0f} to {fact['pace_ms'][1]:.0f} ms"
        )
    print(
        "\n"
        + ("\n".join(wrong) or "every figure agrees with the books, every charge is exact, the sample's audit is clean")
    )
    if not found:
        return
    grows = [item for item in found if item["grows"]]
    print(f"\nSQL whose work grows ({len(grows)}):")
    for item in grows:
        print(plans.text(item))
    print("\nSQL that scans a table or an index, its work as large in either size:")
    for item in found:
        if not item["grows"]:
            print(f"{item['route']}: {item['steps'][1]:,} steps: {'; '.join(plans.scans(item['plan']))}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--engine", choices=NAMES, default="sqlite", help="the database (default sqlite)")
    parser.add_argument(
        "--accounts", type=_figures, default=[1_000, 100_000], help="accounts of each size, smallest first"
    )
    parser.add_argument("--calls", type=_figures, default=[100_000, 1_000_000], help="of each (default 100000,1000000)")
    parser.add_argument("--seconds", type=float, default=3, help="length of each case (default 3)")
    parser.add_argument("--warm", type=float, default=0.5, help="seconds of warm-up before each case (default 0.5)")
    parser.add_argument(
        "--dir", type=Path, help="folder for the databases, which are removed afterwards (default: temporary)"
    )
    arguments = parser.parse_args()
    least_accounts, least_calls = USUAL_ACCOUNTS + 2, USUAL_ACCOUNTS * USUAL_CALLS * 2
    if (
        len(arguments.accounts) != len(arguments.calls)
        or min(arguments.accounts) < least_accounts
        or min(arguments.calls) < least_calls
    ):
        parser.error(f"as many --accounts as --calls, at least {least_accounts} and {least_calls:,} of each")
    if not 0 < arguments.seconds <= 600 or not 0 < arguments.warm <= 60:
        parser.error("--seconds up to 600, --warm up to 60")
    return arguments


def _figures(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
