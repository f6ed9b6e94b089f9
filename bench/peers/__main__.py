"""`python -m bench.peers`: other AI gateways and Farebox under the same load in one run.

    python -m bench.peers install [NAME...]     into bench/.peers, from the package registries
    python -m bench.peers [run]                 measure all that are installed; print the table, write
    bench/results/peers.json

Farebox has a turn first, one in the middle and one last. A peer that does not install, start or answer is listed with
the reason, and the run goes on. The exit status of a run is 0 if Farebox answered and billed every call.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import machine
from bench.build import NoCompiler, build
from bench.peers import litellm, lm_proxy, measure, mlflow, nginx, ours, portkey, table, tensorzero
from bench.peers.peer import PEERS, Peer, hand_over, last_line
from bench.record import shown, write
from bench.run import CASES
from bench.served import Broken, Mock, mock_upstream

ALL = {
    peer.name: peer
    for peer in (
        nginx.PEER,
        tensorzero.PEER,
        portkey.PEER,
        mlflow.PEER,
        lm_proxy.PEER,
        litellm.PEER,
        litellm.WITH_POSTGRES,
        ours.ON_POSTGRES,
    )
}
USUAL = [name for name in ALL if name != ours.ON_POSTGRES.name]


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all started processes are stopped
    if arguments.act == "install":
        return install([ALL[name] for name in arguments.names])
    try:
        return run(arguments, build())
    except (Broken, NoCompiler) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def install(peers: list[Peer]) -> int:
    PEERS.mkdir(exist_ok=True)
    failed = 0
    for peer in peers:
        try:
            peer.install()
            print(f"{peer.name}: {peer.version()}", flush=True)
        except (Broken, subprocess.CalledProcessError) as error:
            failed += 1
            print(f"{peer.name}: not installed: {_reason(error)}", flush=True)
    return int(failed > 0)


def run(arguments: argparse.Namespace, programs: dict[str, Path]) -> int:
    start = time.monotonic()
    skipped = {name: _how_to_install(name) for name in arguments.names if ALL[name].version() is None}
    turns: list[table.Turn] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="farebox-peers-")))
        folder.chmod(0o755)
        mock = stack.enter_context(mock_upstream(programs["mock_upstream"]))
        syncs, system = machine.syncs_per_second(folder), machine.file_system(folder)
        print(f"{os.cpu_count()} cores; {system}: {syncs:,.0f} durable small writes/s, one after another", flush=True)
        for number, peer in enumerate(_by_turns([ALL[name] for name in arguments.names if name not in skipped])):
            try:
                turns.append(_turn(peer, folder / str(number), mock, programs["load"], arguments))
            except Broken as error:
                skipped[peer.name] = str(error)
                print(f"{peer.name}: left out: {error}", flush=True)
    for text in (table.costs(turns), table.rates(turns), table.billing(turns)):
        print(f"\n{text}")
    for name, reason in skipped.items():
        print(f"\nnot measured: {name}: {reason}")
    facts = {"file_system": system, "syncs_per_second": round(syncs), "skipped": skipped, "ratios": _ratios(turns)}
    path = write("peers", turns, **facts)
    print(f"\nwritten: {shown(path)}; it took {time.monotonic() - start:.0f} s")
    rows = [row for turn in turns if turn["name"] == ours.NAME for row in turn["rows"].values()]
    return int(ours.NAME in skipped or any(table.failures(row) or row["unbilled_at_end_nanos"] for row in rows))


def _turn(peer: Peer, folder: Path, mock: Mock, load: Path, arguments: argparse.Namespace) -> table.Turn:
    """Raises Broken if it does not start, answer or stop."""
    print(f"\n{peer.title} {peer.version()}", flush=True)
    rows: dict[str, Any] = {}
    folder.mkdir()
    if peer not in (ours.PEER, ours.ON_POSTGRES):
        hand_over(folder)
    start = time.monotonic()
    with peer.serve(folder, mock) as served:
        started_s = round(time.monotonic() - start, 1)
        measurement = measure.Measurement(load, folder, mock, served)
        cases = [CASES[name] for name in measure.USUAL]
        for row in measurement.rows(cases, seconds=arguments.seconds, warm=arguments.warm):
            name = row["case"]["name"]
            rows[name] = row
            rate = f"{row['events'] / row['seconds']:,.0f} events/s" if row["events"] else f"{row['per_second']:,.0f}/s"
            cpu = ", ".join(f"{process} {seconds:.2f} s" for process, seconds in row["cpu_s"].items())
            print(f"  {name:<6} {rate:>15}  CPU: {cpu}; failed {table.failures(row)}", flush=True)
    facts = {"name": peer.name, "title": peer.title, "bills": peer.bills, "version": peer.version()}
    return {**facts, "started_s": started_s, "whole_s": round(time.monotonic() - start, 1), "rows": rows}


def _by_turns(peers: list[Peer]) -> list[Peer]:
    middle = (len(peers) + 1) // 2
    return [ours.PEER, *peers[:middle], ours.PEER, *peers[middle:], ours.PEER]


def _ratios(turns: list[table.Turn]) -> dict[str, dict[str, float | None]]:
    return {
        turn["name"]: {
            "cpu_of_calls": table.ratio(turns, at, table.cpu_of_calls),
            "cpu_of_paced_events": table.ratio(turns, at, table.cpu_of_events),
        }
        for at, turn in enumerate(turns)
        if turn["name"] != ours.NAME
    }


def _how_to_install(name: str) -> str:
    return f"not installed: `python -m bench.peers install {name}`"


def _reason(error: Broken | subprocess.CalledProcessError) -> str:
    if isinstance(error, Broken):
        return str(error)
    program = Path(error.cmd[0]).name
    return f"{program} {error.cmd[1]} ended with {error.returncode}: {last_line(error.stderr or error.stdout or '')}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__.partition("\n")[0])
    acts = parser.add_subparsers(dest="act")
    installing = acts.add_parser("install", help="install peers into bench/.peers")
    installing.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(USUAL)} (default: all)")
    _run_options(acts.add_parser("run", help="measure (the default)"))
    words = sys.argv[1:]
    arguments = parser.parse_args(
        words if words and words[0] in {"install", "run", "-h", "--help"} else ["run", *words]
    )
    arguments.names = arguments.names or USUAL
    if unknown := [name for name in arguments.names if name not in ALL]:
        parser.error(f"no peer {unknown[0]!r}: there are {', '.join(ALL)}")
    return arguments


def _run_options(parser: argparse.ArgumentParser) -> None:
    names = f"of {', '.join(ALL)} (default: all but the last)"
    parser.add_argument("--names", type=lambda text: text.split(","), help=names)
    parser.add_argument("--seconds", type=float, default=5, help="length of each case (default 5)")
    parser.add_argument("--warm", type=float, default=1, help="seconds of each of two warm-ups (default 1)")


if __name__ == "__main__":
    sys.exit(main())
