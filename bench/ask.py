"""The reads that are measured: their paths, the figures they must return, and their speed."""

import contextlib
import http.client
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench import machine
from bench.engines import Engine
from bench.fill import DAY_MS, DAYS, Made
from bench.served import Broken, Farebox
from farebox.money import NANOS_PER_CENT

_BILLING = "/ai-gateway/billing"


@dataclass(frozen=True, slots=True)
class Read:
    """A route, with one figure of its response (`said`) and the value it must have (`true`)."""

    name: str
    path: str
    said: Callable[[dict[str, Any]], float]
    true: Callable[[Made], float]


def _total(response: dict[str, Any]) -> float:
    return float(response["result_info"]["total_count"])


READS = (
    Read(
        "balance", f"{_BILLING}/credit-balance",
        lambda response: response["result"]["balance"], lambda made: made.posted / NANOS_PER_CENT,
    ),
    Read(
        "usage", _BILLING + "/usage-history?value_grouping_window=hour&start_time={since}",
        lambda response: sum(entry["aggregated_value"] for entry in response["result"]["history"]),
        lambda made: made.wanted.calls,
    ),
    Read(
        "invoices", f"{_BILLING}/invoice-history",
        lambda response: response["result"]["pagination"]["total_count"],
        lambda made: max(1, min(made.wanted.top_ups, made.wanted.calls)),
    ),
    Read(
        "transfers", "/farebox/transfers",
        _total, lambda made: made.wanted.calls + max(1, min(made.wanted.top_ups, made.wanted.calls)),
    ),
    Read(
        "statement", "/farebox/statements/{month}",
        lambda response: response["result"]["closing_nanos"], lambda made: made.posted,
    ),
    Read("logs", "/ai-gateway/gateways/default/logs", _total, lambda made: made.wanted.calls),
)  # fmt: skip
READ = {read.name: read for read in READS}


def target(read: Read, made: Made) -> tuple[str, dict[str, str]]:
    """The path and the headers of one request for this account."""
    now = time.time()
    path = read.path.format(since=int(now * 1000) - (DAYS + 1) * DAY_MS, month=time.strftime("%Y-%m", time.gmtime(now)))
    return f"/client/v4/accounts/{made.account_id}{path}", {"authorization": f"Bearer {made.token}"}


def get(served: Farebox, read: Read, made: Made) -> dict[str, Any]:
    """The response to one read, decoded. Raises Broken if its status is not 200."""
    path, headers = target(read, made)
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        text = response.read()
    if response.status != 200:
        raise Broken(f"{read.name} was answered {response.status}: {text[:500]!r}")
    found: dict[str, Any] = json.loads(text)
    return found


def wrong(served: Farebox, read: Read, made: Made) -> str | None:
    """A description of the error in the route's response; None if its figure is exact."""
    said, true = read.said(get(served, read, made)), read.true(made)
    return None if abs(said - true) < 1e-6 * max(abs(true), 1) else f"{read.name} says {said} instead of {true}"


def load(program: Path, port: int, targets: Path, *, connections: int, seconds: float) -> dict[str, Any]:
    """The load program's result for GET requests to the targets in turn, for this many seconds."""
    command = [program, "-p", str(port), "-f", targets, "-c", str(connections), "-t", str(seconds)]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout:
        raise Broken(f"the load client failed with {done.returncode}")
    came: dict[str, Any] = json.loads(done.stdout)
    return came


def write_targets(path: Path, read: Read, accounts: Sequence[Made]) -> Path:
    lines = []
    for made in accounts:
        where, headers = target(read, made)
        lines.append(where + "\t" + "".join(f"{name}: {value}" for name, value in headers.items()) + "\n")
    path.write_text("".join(lines))
    return path


class ServerUnderTest(Protocol):
    """The server under test: Farebox, or the bare handler."""

    @property
    def pid(self) -> int: ...
    @property
    def port(self) -> int: ...
    @property
    def engine(self) -> Engine: ...


def measure(
    program: Path, served: ServerUnderTest, targets: Path, *, connections: int, seconds: float, warm: float
) -> dict[str, Any]:
    """One result row: response times, and the processor time of the server and the database."""
    load(program, served.port, targets, connections=connections, seconds=warm)
    cpu, database_cpu = machine.cpu_seconds(served.pid), served.engine.cpu_seconds()
    came = load(program, served.port, targets, connections=connections, seconds=seconds)
    used, of_database = machine.cpu_seconds(served.pid) - cpu, served.engine.cpu_seconds() - database_cpu
    thousands = max(came["ok"], 1) / 1000
    return {
        **came,
        "failed": came["bad"] + came["unfinished"] + came["refused"],
        "cpu_s": round(used, 2),
        "cpu_s_per_1000": round(used / thousands, 4),
        "database_cpu_s_per_1000": round(of_database / thousands, 4),
        "pace_ms": machine.pace_ms(),
    }
