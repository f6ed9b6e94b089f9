"""`python -m bench.builds --before FOLDER`: this build compared with an earlier one, in alternating runs.

FOLDER is a checkout of the earlier build with its own `.venv` (`make setup` there, and the packages of its
requirements/dev.txt). Each round runs the same benchmarks in both checkouts, each with its own build's `bench`, and
keeps the figures that both report. Bytes written to disk are the kernel's count for the server process, over all calls
of its run. The exit status is that of the last benchmark that failed, or 0.
"""

import argparse
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench import machine
from bench.record import ROOT, shown, write

_CASES: Final = ("--cases", "ns16,paced", "--warm", "1", "--seconds", "4")
_SAMPLE_S: Final = 0.05
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark that both builds have."""

    module: str
    engine: str
    result: str
    """The name under which it stores its results."""
    arguments: tuple[str, ...]
    figures: Callable[[dict[str, Any], int], Figures]
    """From its results, and the bytes that its server wrote."""


def _calls(result: dict[str, Any], written: int) -> Figures:
    plain, paced = ({row["case"]["name"]: row for row in result["rows"]}[name] for name in ("ns16", "paced"))
    engine = result["engine"]
    found = {
        f"call_{engine}": plain["cpu_s_per_1000"],
        f"events_{engine}": paced["cpu_s_per_100k_events"],
    }
    if engine == "sqlite":
        return found | {"written": written / result["answers"]}
    return found | {"call_database": plain["database_cpu_s_per_1000"]}


def _reads(result: dict[str, Any], _: int) -> Figures:
    ratio = result["ratio_to"]["bare"] if "ratio_to" in result else result["ratio_to_bare"]
    return {f"balance_{result['engine']}": ratio["rate"]}


def _pairs(engine: str) -> Callable[[dict[str, Any], int], Figures]:
    """Pairs per second of the best row, with one account and with many."""

    def figures(result: dict[str, Any], _: int) -> Figures:
        of = {many: [row for row in result["rows"] if (row["accounts"] > 1) == many] for many in (False, True)}
        best = {many: max(row["pairs_per_second"] for row in rows) for many, rows in of.items()}
        return {f"pairs_one_{engine}": best[False], f"pairs_many_{engine}": best[True]}

    return figures


def _benchmarks() -> list[Benchmark]:
    engines = ("sqlite", "postgres")
    return [
        *(Benchmark("bench.run", engine, f"calls-{engine}-1", _CASES, _calls) for engine in engines),
        *(Benchmark("bench.reads", engine, f"reads-{engine}", ("--seconds", "2"), _reads) for engine in engines),
        *(
            Benchmark("bench.ledger", engine, f"ledger-{engine}", ("--seconds", "2"), _pairs(engine))
            for engine in engines
        ),
    ]


@contextmanager
def _kept(path: Path) -> Iterator[None]:
    """Restore a checkout's stored results afterwards."""
    before = path.read_bytes() if path.exists() else None
    try:
        yield
    finally:
        if before is not None:
            path.write_bytes(before)
        else:
            path.unlink(missing_ok=True)


class _Written:
    """The bytes that the `farebox` processes below a process wrote to disk, sampled until `stop`."""

    def __init__(self, root: int) -> None:
        self._root, self._of = root, dict[int, int]()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._stopped.wait(_SAMPLE_S):
            for pid in machine.tree(self._root):
                if machine.is_serving(pid):
                    self._of[pid] = max(self._of.get(pid, 0), machine.written_bytes(pid))

    def stop(self) -> int:
        self._stopped.set()
        self._thread.join()
        return sum(self._of.values())


def _run(checkout: Path, benchmark: Benchmark) -> tuple[Figures, int]:
    """The figures of one run in a checkout, and its exit status. Raises OSError if the checkout has no `.venv`."""
    path = checkout / "bench" / "results" / f"{benchmark.result}.json"
    engine = ("--engine", benchmark.engine)
    command = [str(checkout / ".venv/bin/python"), "-m", benchmark.module, *engine, *benchmark.arguments]
    with _kept(path):
        path.unlink(missing_ok=True)
        process = subprocess.Popen(command, cwd=checkout, stdout=subprocess.DEVNULL)
        written = _Written(process.pid)
        status = process.wait()
        sampled = written.stop()
        return (benchmark.figures(json.loads(path.read_text()), sampled) if path.exists() else {}), status


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.builds", description=__doc__)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the earlier build, with its .venv")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each benchmark in each checkout (default 3)")
    parser.add_argument("--only", default="", help="run only the benchmarks whose results have this in their name")
    asked = parser.parse_args()
    status, rows = 0, list[dict[str, Any]]()
    builds = {"before": asked.before.resolve(), "now": ROOT}
    for benchmark in [one for one in _benchmarks() if asked.only in one.result]:
        for turn in range(asked.rounds):
            for build, checkout in builds.items():
                row = {"build": build, "turn": turn, "benchmark": benchmark.result, "pace_ms": machine.pace_ms()}
                figures, failed = _run(checkout, benchmark)
                status = failed or status
                rows.append({**row, "figures": figures})
                said = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
                print(f"{benchmark.result}, round {turn + 1}, {build}: {said or 'failed'}", flush=True)
    commits = {build: machine.commit(checkout) for build, checkout in builds.items()}
    print(f"written: {shown(write('builds', rows, commits=commits))}")
    return status


if __name__ == "__main__":
    sys.exit(main())
