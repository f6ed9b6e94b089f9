"""Latency of one account's calls while another account sends the worst known bodies.

    python -m bench.hostile.latency [--seconds 5] [--rounds 3] [--kinds arrays,tools]

One gateway process on SQLite, the bench's mock provider, two accounts. The well-behaved one makes a small call every
ten milliseconds over one connection, and its calls are timed: alone, then while the other sends one body over and over
on eight connections. The two alternate, so that other load on the machine affects both. The hostile client is a
separate process that has its bodies ready and runs at the lowest priority: with two cores it takes what the gateway,
its helpers and the measuring client leave. It has a cent of credit.

Part of the slowdown is not caused by the gateway, because other programs use the two cores too. To measure this floor,
the bodies are also sent, as often as the gateway took them, to a program that only receives them, while another keeps
one core busy at the lowest priority, as a helper does.
"""

import argparse
import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import machine
from bench.build import build
from bench.hostile.bodies import BODIES
from bench.served import Farebox, mock_upstream, run, serving, set_up

CONNECTIONS = 8
EVERY_SECONDS = 0.01
OURSELVES = (sys.executable, "-m", "bench.hostile.latency")
SETTLE_SECONDS = 1.0
"""Pause after an attack has begun or ended, before calls are timed again."""
CALL = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}).encode()


def target(folder: Path, name: str) -> tuple[str, str]:
    """The path and the authorization of a new account with a cent."""
    account = run(folder, "account", "create", "--name", name)["account_id"]
    token = run(folder, "token", "create", "--account", account, "--permission", "AI Gateway Run")["token"]
    run(folder, "grant", "--account", account, "--amount", "0.01")
    return f"/v1/{account}/default/openai/chat/completions", f"Bearer {token}"


def times(served: Farebox, seconds: float) -> list[float]:
    """Times of successive calls, in milliseconds; a slow call does not shift the pace."""
    path, header = served.targets.read_text().splitlines()[0].split("\t")
    headers = {"authorization": header.partition(": ")[2], "content-type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=120)
    taken = []
    with contextlib.closing(connection):
        end = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < end:
            connection.request("POST", path, CALL, headers)
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                raise RuntimeError(f"a call of the well-behaved account was answered {response.status}")
            taken.append((time.perf_counter() - begun) * 1000)
            time.sleep(max(0.0, EVERY_SECONDS - (time.perf_counter() - begun)))
    return taken


@contextlib.contextmanager
def attacked(port: int, at: tuple[str, str], kind: str, pace: float = 0) -> Iterator[dict[str, int]]:
    """Send the body on all connections while the block runs, at most `pace` per second (0: without a limit). Afterwards
    the result contains the number of responses by status."""
    statuses_seen: dict[str, int] = {}
    command = [*OURSELVES, "--attack", kind, str(port), *at, str(pace)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        process.stdout.readline()  # the attacker has built its body
        time.sleep(SETTLE_SECONDS)
        yield statuses_seen
    finally:
        statuses_seen.update(json.loads(process.communicate("", timeout=120)[0].splitlines()[-1]))
        time.sleep(SETTLE_SECONDS)


@contextlib.contextmanager
def busy_without_gateway() -> Iterator[int]:
    """Run a program that only receives bodies, at the port yielded, and one that keeps a core busy."""
    with (
        subprocess.Popen([*OURSELVES, "--discard"], stdout=subprocess.PIPE, text=True) as receiver,
        subprocess.Popen([*OURSELVES, "--busy"]) as busy,
    ):
        assert receiver.stdout is not None
        try:
            yield int(receiver.stdout.readline())
        finally:
            receiver.kill()
            busy.kill()


def discard() -> None:
    """Until it is killed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=_discard_from, args=(sock,), daemon=True).start()


def _discard_from(sock: socket.socket) -> None:
    buffer = bytearray(2**18)
    with contextlib.suppress(OSError), sock:
        while head := sock.recv(2**12):
            while b"\r\n\r\n" not in head:
                head += sock.recv(2**12)
            lines, _, body = head.partition(b"\r\n\r\n")
            left = int(lines.rpartition(b"content-length: ")[2]) - len(body)
            while left:
                left -= sock.recv_into(buffer, min(left, len(buffer)))
            sock.sendall(b"HTTP/1.1 402 Payment Required\r\ncontent-length: 0\r\n\r\n")


def keep_busy() -> None:
    """Until it is killed."""
    os.nice(19)
    while True:
        pass


def attack(kind: str, port: int, path: str, authorization: str, pace: float) -> None:
    """Send the body until standard input ends."""
    os.nice(19)
    body = BODIES[kind]()
    if body.startswith(b"["):
        path = path.partition("/openai/")[0]
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: {authorization}\r\ncontent-type: application/json\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    statuses: Counter[str] = Counter()
    threads = [
        threading.Thread(target=_send_on, args=(request, port, statuses, pace), daemon=True) for _ in range(CONNECTIONS)
    ]
    for thread in threads:
        thread.start()
    print("begun", flush=True)
    sys.stdin.read()
    print(json.dumps(statuses), flush=True)
    os._exit(0)


def _send_on(request: bytes, port: int, statuses: Counter[str], pace: float) -> None:
    every = CONNECTIONS / pace if pace else 0
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as sock:
            while True:
                begun = time.perf_counter()
                with contextlib.suppress(OSError):  # refused before all of the body was read: the response has arrived
                    sock.sendall(request)
                response = http.client.HTTPResponse(sock)
                try:
                    response.begin()
                    response.read()
                except http.client.HTTPException:
                    statuses["none"] += 1
                    break
                statuses[str(response.status)] += 1
                time.sleep(max(0.0, every - (time.perf_counter() - begun)))
                if response.will_close:
                    break


def p(values: list[float], percent: int) -> float:
    """A percentile."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def measure(
    served: Farebox, at: tuple[str, str], kinds: list[str], seconds: float, rounds: int
) -> list[dict[str, Any]]:
    rows = []
    for kind in kinds:
        alone: list[float] = []
        beside: list[float] = []
        floor: list[float] = []
        statuses: Counter[str] = Counter()
        for _ in range(rounds):
            alone += times(served, seconds)
            with attacked(served.port, at, kind) as statuses_seen:
                beside += times(served, seconds)
            statuses.update(statuses_seen)
            pace = sum(statuses_seen.values()) / (seconds + SETTLE_SECONDS)
            with busy_without_gateway() as port, attacked(port, at, kind, pace):
                floor += times(served, seconds)
        row = {"kind": kind, "answers": dict(statuses), "alone": alone, "beside": beside, "floor": floor}
        rows.append(row)
        print(line(row), flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    alone, beside, floor = row["alone"], row["beside"], row["floor"]
    said = ", ".join(f"{count} × {status}" for status, count in sorted(row["answers"].items()))
    ratio, least = p(beside, 99) / p(alone, 99), p(floor, 99) / p(alone, 99)
    return (
        f"| {row['kind']} | {said} | {p(alone, 50):.1f} / {p(alone, 99):.1f} | {p(beside, 50):.1f} / "
        f"{p(beside, 99):.1f} | {max(beside):.0f} | {ratio:.1f} | {least:.1f} |"
    )


def main() -> None:
    """The command line, also of the programs that run next to the measuring one."""
    parser = argparse.ArgumentParser(prog="python -m bench.hostile.latency", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", default="", help="parts of names, separated by commas")
    parser.add_argument("--attack", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--discard", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--busy", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        kind, port, path, authorization, pace = options.attack
        attack(kind, int(port), path, authorization, float(pace))
    elif options.discard:
        discard()
    elif options.busy:
        keep_busy()
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Measure, and print a table."""
    words = options.kinds.split(",")
    kinds = [kind for kind in BODIES if any(word in kind for word in words)]
    print(
        f"{os.cpu_count()} cores; {machine.busy():.0%} of them taken by other programs; {machine.commit()}", flush=True
    )
    print(
        "| the other account sends | answers | alone p50 / p99 ms | beside p50 / p99 ms | longest | p99 ratio | floor |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as name, mock_upstream(build()["mock_upstream"]) as mock:
        folder = Path(name)
        targets = set_up(folder, mock)
        at = target(folder, "hostile")
        with serving(folder, targets) as served:
            times(served, 2)
            measure(served, at, kinds, options.seconds, options.rounds)


if __name__ == "__main__":
    main()
