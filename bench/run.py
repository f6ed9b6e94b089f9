"""`python -m bench.run`: what a billed call costs, served by a real Farebox, and whether every one was charged exactly.

Each case warms up, loads the server with a closed loop of callers, and compares: the money that left the accounts with
the calls that were answered. The exit status is 0 where nothing failed and every sum is exact.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import machine
from bench.build import NoCompiler, build
from bench.served import Broken, Farebox, Mock, farebox, mock_upstream

HERE = Path(__file__).parent
EVENTS = 100
INPUT_NANOS, OUTPUT_NANOS = 150, 600
"""A token of gpt-4o-mini in the built-in price list."""
PLAIN_NANOS = 20 * INPUT_NANOS + 16 * OUTPUT_NANOS
STREAM_NANOS = 20 * INPUT_NANOS + EVENTS * OUTPUT_NANOS
SETTLE_SECONDS = 0.5
"""What the server does so long after the last answer still counts as the case's."""

CHAT: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "messages": [
        {"role": "system", "content": "You answer briefly and to the point."},
        {"role": "user", "content": "What does it cost to measure what a call costs?"},
    ],
    "max_tokens": 128,
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


CASES = {
    case.name: case
    for case in (
        Case("ns1", 1),
        Case("ns16", 16),
        Case("ns64", 64),
        Case("ns256", 256),
        Case("st1", 1, stream=True),
        Case("st16", 16, stream=True),
        Case("paced", 32, stream=True, gap_ms=20),
    )
}
USUAL = "ns1,ns16,ns64,st16,paced"


class Bench:
    """The programs, the server under load, and what was measured so far."""

    def __init__(self, programs: dict[str, Path], mock: Mock, served: Farebox) -> None:
        self._load_program = programs["load"]
        self._mock = mock
        self._served = served
        self.answers = 0
        for name, more in (("plain", {}), ("stream", STREAMED)):
            (served.folder / f"{name}.json").write_text(json.dumps({**CHAT, **more}, separators=(",", ":")))

    def measure(self, case: Case, *, seconds: float, warm: float) -> dict[str, Any]:
        self._mock.get(f"/control?latency=0&gap=0&events={EVENTS}")
        self._load(case, warm)
        self._mock.get(f"/control?latency=0&gap={case.gap_ms}&events={EVENTS}")
        time.sleep(SETTLE_SECONDS)
        pid = self._served.pid
        posted, _ = self._served.money()
        cpu, threads, mock_cpu = (
            machine.cpu_seconds(pid),
            machine.thread_seconds(pid),
            machine.cpu_seconds(self._mock.pid),
        )
        came = self._load(case, seconds)
        time.sleep(SETTLE_SECONDS)
        used = machine.cpu_seconds(pid) - cpu
        left, held = self._served.money()
        expected = came["ok"] * (STREAM_NANOS if case.stream else PLAIN_NANOS)
        spent = {name: round(now - threads.get(name, 0), 2) for name, now in machine.thread_seconds(pid).items()}
        return {
            "case": asdict(case),
            **came,
            "cpu_s": round(used, 2),
            "cpu_s_per_1000": round(used / max(came["ok"], 1) * 1000, 4),
            "cpu_s_per_100k_events": round(used / came["events"] * 100_000, 3) if came["events"] else None,
            "cpu_s_of_threads": dict(sorted(((n, s) for n, s in spent.items() if s), key=lambda item: -item[1])),
            "mock_cpu_s": round(machine.cpu_seconds(self._mock.pid) - mock_cpu, 2),
            "memory_mb": machine.memory_mb(pid),
            "database_mb": self._served.database_mb(),
            "expected_nanos": expected,
            "charged_nanos": posted - left,
            "held_nanos": held,
            "exact": posted - left == expected and not held,
            "pace_ms": machine.pace_ms(),
            "load_average": os.getloadavg()[0],
        }

    def _load(self, case: Case, seconds: float) -> dict[str, Any]:
        served = self._served
        body = served.folder / ("stream.json" if case.stream else "plain.json")
        command: list[str | Path] = [self._load_program, "-p", str(served.port), "-f", served.targets, "-b", body]
        command += ["-c", str(case.connections), "-t", str(seconds)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if not done.stdout:
            raise Broken(f"the load client failed with {done.returncode}")
        came: dict[str, Any] = json.loads(done.stdout)
        self.answers += came["ok"]
        return came


def failed(row: dict[str, Any]) -> bool:
    return not row["exact"] or bool(row["bad"] or row["unfinished"] or row["refused"])


HEADINGS = (
    f"{'case':<7}{'calls/s':>9}{'p50 ms':>9}{'p90 ms':>9}{'p99 ms':>9}{'first p50':>11}{'CPU s/1,000':>13}"
    f"{'CPU s/100k ev':>15}{'events/s':>10}{'PSS MB':>8}{'pace ms':>9}{'failed':>8}  charged"
)


def line(row: dict[str, Any]) -> str:
    per_events = row["cpu_s_per_100k_events"]
    wrong = row["bad"] + row["unfinished"] + row["refused"]
    exact = (
        "exactly" if row["exact"] else f"{row['charged_nanos']} of {row['expected_nanos']}, held {row['held_nanos']}"
    )
    return (
        f"{row['case']['name']:<7}{row['per_second']:>9,.0f}{row['p50_ms']:>9.2f}{row['p90_ms']:>9.2f}"
        f"{row['p99_ms']:>9.2f}{row['first_p50_ms']:>11.2f}{row['cpu_s_per_1000']:>13.3f}"
        f"{'' if per_events is None else f'{per_events:.2f}':>15}{row['events'] / row['seconds']:>10,.0f}"
        f"{row['memory_mb']['pss']:>8.0f}{row['pace_ms']:>9.0f}{wrong:>8}  {exact}"
    )


def write(name: str, rows: list[dict[str, Any]], **facts: object) -> Path:
    """Store what was measured, with all that is needed to measure it again."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    path = HERE / "results" / f"{moment}-{name}.json"
    path.parent.mkdir(exist_ok=True)
    command = shlex.join(["python", "-m", f"bench.{name}", *sys.argv[1:]])
    found = {
        "command": command,
        "commit": machine.commit(),
        "machine": machine.machine(),
        "versions": machine.versions(),
    }
    path.write_text(json.dumps({**found, **facts, "rows": rows}, indent=1) + "\n")
    return path


def main() -> int:
    asked = _arguments()
    try:
        programs = build()
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="farebox-bench-", dir=asked.dir)))
            mock = stack.enter_context(mock_upstream(programs["mock_upstream"]))
            served = stack.enter_context(farebox(folder, mock, accounts=asked.accounts, profile=asked.profile))
            return _measure_all(asked, Bench(programs, mock, served), served)
    except (Broken, NoCompiler) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def _measure_all(asked: argparse.Namespace, bench: Bench, served: Farebox) -> int:
    cases = [CASES[name] for name in asked.cases]
    syncs, system = machine.syncs_per_second(served.folder), machine.file_system(served.folder)
    print(f"{len(cases)} cases of {asked.seconds:g} s, {asked.accounts} account(s), {os.cpu_count()} cores", flush=True)
    print(f"{system}: {syncs:,.0f} durable small writes/s, one after another", flush=True)
    print(HEADINGS, flush=True)
    rows = []
    for case in cases:
        rows.append(bench.measure(case, seconds=asked.seconds, warm=asked.warm))
        print(line(rows[-1]), flush=True)
    clean = served.check()
    lines = served.lines_of_calls()
    facts = {"accounts": asked.accounts, "file_system": system, "syncs_per_second": round(syncs), "books_clean": clean}
    path = write("run", rows, **facts, answers=bench.answers, log_lines=lines, profiled=asked.profile is not None)
    print(f"{bench.answers:,} answers, {lines:,} canonical log lines; books {'clean' if clean else 'NOT CLEAN'}")
    print(f"written: {path.relative_to(HERE.parent)}")
    return int(not clean or lines != bench.answers or any(failed(row) for row in rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--cases", type=_cases, default=_cases(USUAL), help=f"of {', '.join(CASES)} (default {USUAL})")
    parser.add_argument("--seconds", type=float, default=10, help="length of each case (default 10)")
    parser.add_argument("--warm", type=float, default=2, help="seconds of warm-up before each case (default 2)")
    parser.add_argument("--accounts", type=int, default=1, help="accounts that call in turn (default 1)")
    parser.add_argument("--dir", type=Path, help="where the database is made and removed again (default: temporary)")
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="run the server under cProfile, tables go there")
    asked = parser.parse_args()
    if asked.accounts < 1 or not 0 < asked.seconds <= 600 or not 0 < asked.warm <= 60:
        parser.error("--accounts is at least 1, --seconds up to 600, --warm up to 60")
    if asked.profile is not None:
        asked.profile = asked.profile.resolve()
        asked.profile.mkdir(parents=True, exist_ok=True)
    return asked


def _cases(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in CASES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no case {unknown[0]!r}: there are {', '.join(CASES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
