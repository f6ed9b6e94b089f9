"""`python -m bench.run`: the cost of a billed call through a real Farebox, and whether every call was charged exactly.

Each case warms up, loads the server with a closed loop of callers, and compares the money that left the accounts with
the calls that were answered. Case `streams` doubles the number of concurrent streams until one fails or waits too
long for its first byte. The exit status is 0 if nothing failed and every sum is exact.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import machine
from bench.engines import NAMES, Engine
from bench.fill import Wanted, differs, fill
from bench.prepared import exit_status, prepared
from bench.record import shown, write
from bench.served import Broken, Farebox, Mock, serving, set_up, write_targets

__all__ = ["CASES", "CHAT", "EVENTS", "PLAIN_NANOS", "SETTLE_SECONDS", "STREAMED", "STREAM_NANOS", "Case", "write"]

EVENTS = 100
INPUT_NANOS, OUTPUT_NANOS = 150, 600
"""Price of a token of gpt-4o-mini in the built-in price list."""
PLAIN_NANOS = 20 * INPUT_NANOS + 16 * OUTPUT_NANOS
STREAM_NANOS = 20 * INPUT_NANOS + EVENTS * OUTPUT_NANOS
SETTLE_SECONDS = 0.5
"""The server's work counts for the case until this long after the last response."""

CHAT: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "messages": [
        {"role": "system", "content": "You answer briefly and to the point."},
        {"role": "user", "content": "What does it cost to measure what a call costs?"},
    ],
    "max_tokens": 128,
}
MARK = "NUMBER"
"""The load client replaces it with a different number in each request."""
DIFFERENT = {
    "messages": [*CHAT["messages"][:-1], {"role": "user", "content": f"{CHAT['messages'][-1]['content']} {MARK}"}]
}
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load."""

    name: str
    connections: int
    stream: bool = False
    gap_ms: int = 0
    """Time between the events of a stream; with 0 the provider sends it in one piece."""
    beside_direct: bool = False
    """Whether the provider is also asked directly, to see what the server adds."""
    ramp_seconds: float = 0
    """Time over which the callers start, one after another."""
    gateway: str = "default"
    """Which of the account's gateways is called (bench.served.GATEWAYS)."""
    free: bool = False
    """Whether the calls are free because the gateway's cache answers them."""
    different: bool = False
    """Whether every body is different, so that no cache has a response."""

    headers: bool = False
    """Whether the provider sends two dozen headers, as real ones do, instead of two."""

    @property
    def body(self) -> str:
        """The name of the file with the request body."""
        return "stream.json" if self.stream else "different.json" if self.different else "plain.json"


CASES = {
    case.name: case
    for case in (
        Case("ns1", 1, beside_direct=True),
        Case("ns16", 16),
        Case("ns64", 64),
        Case("ns256", 256),
        Case("heads16", 16, headers=True),
        Case("st1", 1, stream=True),
        Case("st16", 16, stream=True),
        Case("paced", 32, stream=True, gap_ms=20, beside_direct=True),
        Case("hit16", 16, gateway="cached", free=True),
        Case("miss16", 16, gateway="cached", different=True),
        Case("rules16", 16, gateway="ruled"),
    )
}
STREAMS = "streams"
"""The name of the case that is run several times, with more and more streams."""
USUAL = "ns1,ns16,ns64,ns256,st16,paced"
STREAMS_GAP_MS, STREAMS_RAMP_SECONDS = 100, 5.0
STREAMS_FIRST, STREAMS_MOST = 64, 8192
FIRST_BYTE_MAX_MS = 1000.0
CHECKED_WHOLE, AUDITED = 1_000, 200
"""How many accounts are audited at most."""
DIRECT_SECONDS = 2.0
FILES_OF_A_STREAM = 3
"""Upper bound of a process's open files per stream."""


class Bench:
    """The programs, the server under load, and the results so far."""

    def __init__(self, programs: dict[str, Path], mock: Mock, served: Farebox) -> None:
        self._load_program = programs["load"]
        self._mock = mock
        self.served = served
        self.responses = 0
        for name, more in (("plain", {}), ("stream", STREAMED), ("different", DIFFERENT)):
            (served.folder / f"{name}.json").write_text(json.dumps({**CHAT, **more}, separators=(",", ":")))

    def measure(self, case: Case, *, seconds: float, warm: float) -> dict[str, Any]:
        """One row: rates, times, processor time, memory, and whether the sums are exact."""
        served, engine, pid = self.served, self.served.engine, self.served.pid
        if warm:
            self._mock.get(f"/control?latency=0&gap=0&events={EVENTS}&headers={int(case.headers)}")
            self._load(case, warm)
        self._mock.get(f"/control?latency=0&gap={case.gap_ms}&events={EVENTS}&headers={int(case.headers)}")
        direct = self._added_to(case)
        time.sleep(SETTLE_SECONDS)
        posted, _ = served.money()
        before = machine.cpu_seconds(pid), engine.cpu_seconds(), machine.cpu_seconds(self._mock.pid)
        threads = machine.thread_seconds(pid)
        came = self._load(case, seconds)
        memory = machine.memory_mb(pid)
        time.sleep(SETTLE_SECONDS)
        now = machine.cpu_seconds(pid), engine.cpu_seconds(), machine.cpu_seconds(self._mock.pid)
        used, of_database, of_mock = (after - earlier for after, earlier in zip(now, before, strict=True))
        left, held = served.money()
        expected = came["ok"] * (0 if case.free else STREAM_NANOS if case.stream else PLAIN_NANOS)
        spent = {name: round(now - threads.get(name, 0), 2) for name, now in machine.thread_seconds(pid).items()}
        return {
            "case": asdict(case),
            **came,
            **{f"direct_{name}": direct[name] for name in ("p50_ms", "p99_ms", "first_p50_ms") if direct},
            **_costs("", used, came),
            **_costs("database_", of_database, came),
            "cpu_s_of_threads": dict(sorted(((n, s) for n, s in spent.items() if s), key=lambda item: -item[1])),
            "mock_cpu_s": round(of_mock, 2),
            "memory_mb": memory,
            "database_memory_mb": engine.memory_mb(),
            "database_mb": served.database_mb(),
            "expected_nanos": expected,
            "charged_nanos": posted - left,
            "held_nanos": held,
            "exact": posted - left == expected and not held,
            "pace_ms": machine.pace_ms(),
            "load_average": os.getloadavg()[0],
        }

    def streams_at_once(self) -> Iterator[dict[str, Any]]:
        """Double the number of streams until one fails or the first bytes come too late."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        streams = STREAMS_FIRST
        while streams <= STREAMS_MOST and streams * FILES_OF_A_STREAM < files:
            gap, ramp = STREAMS_GAP_MS, STREAMS_RAMP_SECONDS
            case = Case(f"s{streams}", streams, stream=True, gap_ms=gap, ramp_seconds=ramp)
            row = self.measure(case, seconds=STREAMS_RAMP_SECONDS * 2, warm=0)
            row["held_up"] = not failed(row) and row["first_p99_ms"] <= FIRST_BYTE_MAX_MS
            yield row
            if not row["held_up"]:
                return
            streams *= 2

    def _added_to(self, case: Case) -> dict[str, Any] | None:
        """The results of the same load on the provider without the server."""
        if not case.beside_direct:
            return None
        return self._load(case, DIRECT_SECONDS, direct=True)

    def _load(self, case: Case, seconds: float, *, direct: bool = False) -> dict[str, Any]:
        served = self.served
        command: list[str | Path] = [self._load_program, "-b", served.folder / case.body, "-c", str(case.connections)]
        command += (
            ["-p", str(self._mock.port)] if direct else ["-p", str(served.port), "-f", served.targets_of(case.gateway)]
        )
        command += ["-t", str(seconds), "-r", str(case.ramp_seconds)]
        if case.different:
            command += ["-m", MARK]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if not done.stdout:
            raise Broken(f"the load client failed with {done.returncode}")
        came: dict[str, Any] = json.loads(done.stdout)
        self.responses += 0 if direct else came["ok"]
        return came


def _costs(whose: str, used: float, came: dict[str, Any]) -> dict[str, float | None]:
    """Processor time in seconds: in total, per 1,000 responses and per 100,000 events."""
    events = came["events"]
    return {
        f"{whose}cpu_s": round(used, 2),
        f"{whose}cpu_s_per_1000": round(used / max(came["ok"], 1) * 1000, 4),
        f"{whose}cpu_s_per_100k_events": round(used / events * 100_000, 3) if events else None,
    }


def failed(row: dict[str, Any]) -> bool:
    return not row["exact"] or bool(row["bad"] or row["unfinished"] or row["refused"])


HEADINGS = (
    f"{'case':<7}{'calls/s':>9}{'p50 ms':>9}{'p90 ms':>9}{'p99 ms':>9}{'first p50':>11}{'p99':>9}{'CPU s/1,000':>13}"
    f"{'database':>10}{'CPU s/100k ev':>15}{'database':>10}{'events/s':>10}{'PSS MB':>8}{'pace ms':>9}{'failed':>8}"
    "  charged"
)


def line(row: dict[str, Any]) -> str:
    wrong = row["bad"] + row["unfinished"] + row["refused"]
    exact = (
        "exactly" if row["exact"] else f"{row['charged_nanos']} of {row['expected_nanos']}, held {row['held_nanos']}"
    )
    events = (row["cpu_s_per_100k_events"], row["database_cpu_s_per_100k_events"])
    of_events, of_database = ("" if figure is None else f"{figure:.2f}" for figure in events)
    return (
        f"{row['case']['name']:<7}{row['per_second']:>9,.0f}{row['p50_ms']:>9.2f}{row['p90_ms']:>9.2f}"
        f"{row['p99_ms']:>9.2f}{row['first_p50_ms']:>11.2f}{row['first_p99_ms']:>9.2f}{row['cpu_s_per_1000']:>13.3f}"
        f"{row['database_cpu_s_per_1000']:>10.3f}{of_events:>15}{of_database:>10}"
        f"{row['events'] / row['seconds']:>10,.0f}{row['memory_mb']['pss']:>8.0f}{row['pace_ms']:>9.0f}"
        f"{wrong:>8}  {exact}"
    )


def main() -> int:
    return exit_status(partial(_run, _arguments()))


def _run(arguments: argparse.Namespace) -> int:
    how = "bench.bytecodes" if arguments.bytecodes else "bench.profiled"
    under = () if arguments.profile is None else (how, str(arguments.profile))
    with prepared(arguments.engine, arguments.dir) as (programs, folder, mock, engine):
        targets = _set_up(folder, mock, engine, arguments.accounts)
        with serving(folder, targets, engine=engine, workers=arguments.workers, under=under) as served:
            return _measure_all(arguments, Bench(programs, mock, served), served)


def _set_up(folder: Path, mock: Mock, engine: Engine, accounts: int) -> Path:
    """One account, created by the command line; several are created by bench.fill, without a history."""
    if accounts == 1:
        return set_up(folder, mock, engine)
    made = fill(folder, mock, [Wanted("caller", 0, 1)] * accounts, engine=engine)
    return write_targets(folder / "targets", [(one.account_id, one.token) for one in made])


def _measure_all(arguments: argparse.Namespace, bench: Bench, served: Farebox) -> int:
    syncs, system = machine.syncs_per_second(served.folder), machine.file_system(served.folder)
    print(
        f"{arguments.engine}, {arguments.accounts} account(s), {arguments.workers} process(es), {os.cpu_count()} cores"
    )
    print(f"{system}: {syncs:,.0f} durable small writes/s, one after another")
    print(HEADINGS, flush=True)
    rows, wrong = [], 0
    for row in _rows(arguments, bench):
        rows.append(row)
        wrong += failed(row) and not row["case"]["ramp_seconds"]  # failing streams are the expected end of this case
        print(line(row), flush=True)
    clean, lines = _books_are_clean(served, arguments.accounts), served.lines_of_calls()
    engine = served.engine
    facts = {"engine": arguments.engine, "engine_version": engine.version, "accounts": arguments.accounts}
    facts |= {
        "workers": arguments.workers,
        "file_system": system,
        "syncs_per_second": round(syncs),
        "books_clean": clean,
    }
    name = arguments.name or f"calls-{arguments.engine}-{arguments.accounts}" + (
        f"-{arguments.workers}" if arguments.workers > 1 else ""
    )
    path = write(name, rows, **facts, answers=bench.responses, log_lines=lines, profiled=arguments.profile is not None)
    print(f"{bench.responses:,} responses, {lines:,} canonical log lines; books {'clean' if clean else 'NOT CLEAN'}")
    print(f"written: {shown(path)}")
    broke = any(row.get("held_up") is False for row in rows)  # then calls without a response may have a log line too
    return int(not clean or wrong > 0 or (lines < bench.responses if broke else lines != bench.responses))


def _books_are_clean(served: Farebox, accounts: int) -> bool:
    """The result of `farebox check`; for very many accounts, of the audit of a sample."""
    if accounts <= CHECKED_WHOLE:
        return served.check()
    targets = served.targets.read_text().splitlines()[:: max(1, accounts // AUDITED)]
    return not differs(served.folder, (line.split("/")[2] for line in targets), served.engine)


def _rows(arguments: argparse.Namespace, bench: Bench) -> Iterator[dict[str, Any]]:
    gateways = {CASES[name].gateway for name in arguments.cases if name != STREAMS} - {"default"}
    for gateway in sorted(gateways):
        bench.served.make_gateway(gateway)
    for name in arguments.cases:
        if name == STREAMS:
            yield from bench.streams_at_once()
        else:
            yield bench.measure(CASES[name], seconds=arguments.seconds, warm=arguments.warm)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    names = ", ".join([*CASES, STREAMS])
    parser.add_argument("--engine", choices=NAMES, default="sqlite", help="the database (default sqlite)")
    parser.add_argument("--workers", type=int, default=1, help="gateway processes, on postgres (default 1)")
    parser.add_argument("--cases", type=_cases, default=_cases(USUAL), help=f"of {names} (default {USUAL})")
    parser.add_argument("--seconds", type=float, default=10, help="length of each case (default 10)")
    parser.add_argument("--warm", type=float, default=2, help="seconds of warm-up before each case (default 2)")
    parser.add_argument("--accounts", type=int, default=1, help="accounts that call in turn (default 1)")
    parser.add_argument("--name", help="name of the results (default calls-ENGINE-ACCOUNTS)")
    parser.add_argument(
        "--dir", type=Path, help="folder for the database, which is removed afterwards (default: temporary)"
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FOLDER",
        help="run the server under cProfile, and write the tables into this folder",
    )
    parser.add_argument(
        "--bytecodes", action="store_true", help="with --profile: count bytecodes instead of measuring times"
    )
    arguments = parser.parse_args()
    if (
        arguments.accounts < 1
        or arguments.workers < 1
        or not 0 < arguments.seconds <= 600
        or not 0 < arguments.warm <= 60
    ):
        parser.error("--accounts and --workers are at least 1, --seconds up to 600, --warm up to 60")
    if arguments.workers > 1 and arguments.engine == "sqlite":
        parser.error("an SQLite database is served by one process")
    if arguments.profile is not None:
        arguments.profile = arguments.profile.resolve()
        arguments.profile.mkdir(parents=True, exist_ok=True)
    return arguments


def _cases(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in CASES and name != STREAMS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no case {unknown[0]!r}: there are {', '.join([*CASES, STREAMS])}")
    return names


if __name__ == "__main__":
    sys.exit(main())
