"""`python -m bench.soak --minutes 60`: does the memory of a server stay constant?

Plain calls, paced streams and reads run concurrently all the time; the server's memory is sampled each minute. Its
private memory (see bench.machine) is flat if the last quarter's median is at most FLAT times the first quarter's, after
WARM_MINUTES in which caches and pools fill. The exit status is 0 if it is flat, no response failed and every charge is
exact.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from bench import ask, machine
from bench.engines import NAMES
from bench.fill import Wanted, fill
from bench.prepared import exit_status, prepared
from bench.record import shown, write
from bench.run import CHAT, EVENTS, PLAIN_NANOS, STREAM_NANOS, STREAMED
from bench.served import Farebox, Mock, serving, write_targets

ACCOUNTS = 100
CALLS_OF_EACH, TOP_UPS_OF_EACH = 100, 12
PLAIN_CALLERS, STREAMS, READERS = 8, 16, 2
STREAM_GAP_MS = 20
WARM_MINUTES = 2
FLAT = 1.03
MINUTES_MAX = 119
"""The maximum of the load client, and a little less."""
IDLE_SECONDS = 5.0
LONGER_SECONDS = 30
"""Seconds by which the load outlasts the last sample: streams that its end cuts off are counted by helper processes of
100 MB each."""


def main() -> int:
    return exit_status(partial(_run, _arguments()))


def _run(arguments: argparse.Namespace) -> int:
    with prepared(arguments.engine, arguments.dir) as (programs, folder, mock, engine):
        made = fill(folder, mock, [Wanted("soak", CALLS_OF_EACH, TOP_UPS_OF_EACH)] * ACCOUNTS, engine=engine)
        calls = write_targets(folder / "targets", [(one.account_id, one.token) for one in made])
        reads = folder / "targets-reads"
        parts = [ask.write_targets(folder / "targets-read", read, made).read_text() for read in ask.READS]
        reads.write_text("".join(parts))
        with serving(folder, calls, engine=engine) as served:
            return _soak(arguments.minutes, served, mock, programs["load"], reads)


def _soak(minutes: int, served: Farebox, mock: Mock, program: Path, reads: Path) -> int:
    time.sleep(IDLE_SECONDS)
    idle = machine.memory_mb(served.pid)["pss"]
    heads = f"{'minute':>6}{'own MB':>9}{'PSS MB':>9}{'CPU':>7}{'database MB':>13}"
    print(f"{served.engine.name}: {idle:.0f} MB when idle\n{heads}", flush=True)
    mock.get(f"/control?latency=0&gap={STREAM_GAP_MS}&events={EVENTS}")
    posted, _ = served.money()
    callers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for command in _loads(minutes, served, program, reads)
    ]
    rows = []
    for minute in range(1, minutes + 1):
        cpu = machine.cpu_seconds(served.pid)
        time.sleep(60)
        memory = machine.memory_mb(served.pid)
        row = {
            "minute": minute,
            "processes": len(machine.tree(served.pid)),
            "own_mb": memory["own"],
            "pss_mb": memory["pss"],
            "cpu": round((machine.cpu_seconds(served.pid) - cpu) / 60, 2),
            "database_mb": served.database_mb(),
        }
        rows.append(row)
        shown_row = (
            f"{minute:>6}{row['own_mb']:>9.1f}{row['pss_mb']:>9.1f}{row['cpu']:>7.2f}{row['database_mb']:>13,.0f}"
        )
        print(shown_row, flush=True)
    came = {
        name: json.loads(caller.communicate()[0])
        for name, caller in zip(("plain", "streams", "reads"), callers, strict=True)
    }
    return _verdict(rows, idle, came, served, posted)


def _loads(minutes: int, served: Farebox, program: Path, reads: Path) -> list[list[str]]:
    """The commands of the three kinds of load."""
    for name, more in (("plain", {}), ("stream", STREAMED)):
        (served.folder / f"{name}.json").write_text(json.dumps({**CHAT, **more}, separators=(",", ":")))
    common = [str(program), "-p", str(served.port), "-t", str(minutes * 60 + LONGER_SECONDS)]
    calls = ["-f", str(served.targets)]
    return [
        [*common, *calls, "-b", str(served.folder / "plain.json"), "-c", str(PLAIN_CALLERS)],
        [*common, *calls, "-b", str(served.folder / "stream.json"), "-c", str(STREAMS)],
        [*common, "-f", str(reads), "-c", str(READERS)],
    ]


def _verdict(rows: list[dict[str, Any]], idle: float, came: dict[str, Any], served: Farebox, posted: int) -> int:
    left, held = served.money()
    expected = came["plain"]["ok"] * PLAIN_NANOS + came["streams"]["ok"] * STREAM_NANOS
    exact = posted - left == expected and not held
    bad = sum(of["bad"] + of["unfinished"] + of["refused"] for of in came.values())
    growth = grown([row["own_mb"] for row in rows])
    flat = growth is not None and growth <= FLAT
    clean = served.check()
    facts = {
        "engine": served.engine.name,
        "idle_mb": idle,
        "growth": growth,
        "flat": flat,
        "exact": exact,
        "failed": bad,
    }
    path = write(f"soak-{served.engine.name}", rows, **facts, answers={name: of["ok"] for name, of in came.items()})
    print(", ".join(f"{of['ok']:,} {name}" for name, of in came.items()) + f" answered, {bad} failed")
    print(f"charges {'exact' if exact else 'NOT EXACT'}, books {'clean' if clean else 'NOT CLEAN'}")
    said = "too short to tell" if growth is None else f"{'flat' if flat else 'NOT FLAT'}: {growth:.3f} times"
    print(f"memory: {said}\nwritten: {shown(path)}")
    return int(not flat or not exact or bad > 0 or not clean)


def grown(figures: list[float]) -> float | None:
    """The ratio of the last quarter's median to the first's, without the warm-up; None: too few minutes."""
    kept = figures[WARM_MINUTES:]
    quarter = len(kept) // 4
    if not quarter:
        return None
    return round(statistics.median(kept[-quarter:]) / statistics.median(kept[:quarter]), 3)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--engine", choices=NAMES, default="sqlite", help="the database (default sqlite)")
    parser.add_argument("--minutes", type=int, default=60, help="minutes of load (default 60)")
    parser.add_argument(
        "--dir", type=Path, help="folder for the database, which is removed afterwards (default: temporary)"
    )
    arguments = parser.parse_args()
    if not 1 <= arguments.minutes <= MINUTES_MAX:
        parser.error(f"--minutes is 1 to {MINUTES_MAX}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
