"""`python -m bench.reads`: the cost of reads of the billing API, on an account with a history.

The balance is read by many concurrent callers, in turns with a bare handler on two servers (bench.bare): Granian, a
server written in Rust, and Farebox's own, where the ratio is the cost of routes, permissions and database. The other
reads are timed for one caller. The exit status is 0 if every read was answered and its figures agree with the books.
"""

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import ask, machine
from bench.engines import NAMES, SQLITE, Engine
from bench.fill import Made, Wanted, differs, fill
from bench.prepared import exit_status, prepared
from bench.record import ROOT, shown, write
from bench.served import Broken, Farebox, serving

CONNECTIONS = 16
TURNS = 2
"""Farebox and the bare handlers take turns; the best turn of each counts."""
BARE = {"bare": "granian", "bare_own": "farebox"}
"""The names of the bare handlers in the results, and their servers."""


@dataclass(frozen=True, slots=True)
class Bare:
    """The bare handler (bench.bare). It has no database."""

    pid: int
    port: int
    engine: Engine = SQLITE


@contextlib.contextmanager
def bare(server: str, folder: Path, response: dict[str, Any], token: str) -> Iterator[Bare]:
    """Run the bare handler on this server; it gives this response to this token."""
    (folder / "answer.json").write_text(json.dumps(response))
    command = [sys.executable, "-m", "bench.bare", server, str(folder / "answer.json"), token]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise Broken("the bare handler did not start")
        yield Bare(process.pid, json.loads(line)["port"])
    finally:
        process.terminate()
        process.wait()


class Reads:
    """Measures one account's reads; keeps the rows and prints each."""

    def __init__(self, program: Path, served: Farebox, made: Made, arguments: argparse.Namespace) -> None:
        self._program = program
        self._served = served
        self._made = made
        self._arguments = arguments
        self.rows: list[dict[str, Any]] = []

    def measure(self, name: str, asked_of: ask.ServerUnderTest, connections: int) -> dict[str, Any]:
        read = ask.READ["balance" if name in BARE else name]
        targets = ask.write_targets(self._served.folder / f"targets-{name}", read, [self._made])
        seconds, warm = self._arguments.seconds, self._arguments.warm
        found = ask.measure(self._program, asked_of, targets, connections=connections, seconds=seconds, warm=warm)
        each = round(found["body_bytes"] / max(found["ok"], 1))
        self.rows.append({"case": name, "answer_bytes": each, **found})
        print(line(self.rows[-1]), flush=True)
        return self.rows[-1]

    def beside_bare(self) -> dict[str, dict[str, float]]:
        """Measure the balance, in turns with the bare handlers; the ratios of Farebox's figures to those of each."""
        served, best = self._served, {"rate": dict[str, float](), "cpu": dict[str, float]()}
        response = ask.get(served, ask.READ["balance"], self._made)
        with ExitStack() as stack:
            turns: dict[str, ask.ServerUnderTest] = {"balance": served}
            for name, server in BARE.items():
                turns[name] = stack.enter_context(bare(server, served.folder, response, self._made.token))
            for name in tuple(turns) * TURNS:
                found = self.measure(name, turns[name], CONNECTIONS)
                best["rate"][name] = max(best["rate"].get(name, 0), found["per_second"])
                best["cpu"][name] = min(best["cpu"].get(name, 1e9), found["cpu_s_per_1000"])
        return {name: {what: round(of["balance"] / of[name], 2) for what, of in best.items()} for name in BARE}


HEADINGS = (
    f"{'read':<11}{'callers':>8}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'CPU s/1,000':>13}"
    f"{'bytes':>9}{'pace ms':>9}{'failed':>8}"
)


def line(row: dict[str, Any]) -> str:
    return (
        f"{row['case']:<11}{row['connections']:>8}{row['per_second']:>12,.0f}{row['p50_ms']:>9.2f}{row['p99_ms']:>9.2f}"
        f"{row['cpu_s_per_1000']:>13.3f}{row['answer_bytes']:>9,}{row['pace_ms']:>9.0f}{row['failed']:>8}"
    )


def main() -> int:
    return exit_status(partial(_run, _arguments()))


def _run(arguments: argparse.Namespace) -> int:
    under = () if arguments.bytecodes is None else ("bench.bytecodes", str(arguments.bytecodes))
    with prepared(arguments.engine, arguments.dir) as (programs, folder, mock, engine):
        made = fill(folder, mock, [Wanted("read", arguments.calls, arguments.top_ups)], engine=engine)[0]
        with serving(folder, folder / "targets", engine=engine, under=under) as served:
            reads = Reads(programs["load"], served, made, arguments)
            if under:
                return int(reads.measure("balance", served, CONNECTIONS)["failed"] > 0)
            return _measure_all(reads, served, made)


def _measure_all(reads: Reads, served: Farebox, made: Made) -> int:
    wrong = [found for read in ask.READS if (found := ask.wrong(served, read, made))]
    print(f"an account with {made.wanted.calls:,} calls in 90 days and {made.wanted.top_ups:,} purchases")
    print(HEADINGS, flush=True)
    ratio = reads.beside_bare()
    for read in ask.READS:
        reads.measure(read.name, served, 1)
    wrong += differs(served.folder, [made.account_id], served.engine)
    facts = {"calls": made.wanted.calls, "top_ups": made.wanted.top_ups, "ratio_to": ratio, "wrong": wrong}
    engine = served.engine.name
    path = write(f"reads-{engine}", reads.rows, **facts, engine=engine, memory_mb=machine.memory_mb(served.pid))
    for name, server in BARE.items():
        of = ratio[name]
        print(
            f"balance beside a bare handler on {server}: {of['rate']:.2f} of its requests/s, {of['cpu']:.2f} of its CPU"
        )
    print("\n".join(wrong) or "every figure agrees with the books")
    print(f"written: {shown(path)}")
    return int(bool(wrong) or any(row["failed"] for row in reads.rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.reads", description=__doc__)
    parser.add_argument("--engine", choices=NAMES, default="sqlite", help="the database (default sqlite)")
    parser.add_argument("--seconds", type=float, default=5, help="length of each case (default 5)")
    parser.add_argument("--warm", type=float, default=1, help="seconds of warm-up before each case (default 1)")
    parser.add_argument("--calls", type=int, default=5_000, help="calls of the account's 90 days (default 5,000)")
    parser.add_argument("--top-ups", type=int, default=100, help="purchases of the account (default 100)")
    parser.add_argument(
        "--dir", type=Path, help="folder for the database, which is removed afterwards (default: temporary)"
    )
    parser.add_argument(
        "--bytecodes",
        type=Path,
        metavar="FOLDER",
        help="only count the bytecodes of reading a balance, see bench.bytecodes",
    )
    arguments = parser.parse_args()
    if arguments.calls < 1 or arguments.top_ups < 1 or not 0 < arguments.seconds <= 600 or not 0 < arguments.warm <= 60:
        parser.error("--calls and --top-ups are at least 1, --seconds up to 600, --warm up to 60")
    if arguments.bytecodes is not None:
        arguments.bytecodes = arguments.bytecodes.resolve()
        arguments.bytecodes.mkdir(parents=True, exist_ok=True)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
