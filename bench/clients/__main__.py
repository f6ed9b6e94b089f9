"""`python -m bench.clients`: what SDKs and coding agents show if Farebox refuses a call, or a stream breaks off.

Each client is installed from PyPI or npm, in the version that catalogue.py names, into its own folder, and run against
a separate Farebox with the demo provider. It must first get an answer. Requests are counted as they arrive at Farebox.
Prints the tables, and writes them into docs/clients.md; the full output goes into bench/results/clients.json. Takes
about half an hour and 5 GB; half of the time is spent on clients that wait. The exit status is 0 if every client got
its answer and showed an error in every other situation.
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import stored
from bench.clients.agents import PROMPT
from bench.clients.catalogue import CLIENTS, Client
from bench.clients.install import Installations
from bench.clients.page import OURS, cell, tables
from bench.clients.place import ANSWER, CUT, SITUATIONS, Place, place
from bench.clients.watch import Watched, watch
from bench.record import ROOT, write
from bench.served import Broken

PAGE = ROOT / "docs" / "clients.md"
BEGIN, END = "<!-- clients -->\n", "<!-- /clients -->"
SHOWN_KEPT = 2_000
"""Characters of output that are kept in the results."""


def observe(client: Client, installed: Installations, there: Place, situation: str, folder: Path) -> dict[str, Any]:
    """Run a client in one situation; the row of its results."""
    account, token = there.accounts[situation]
    base = f"{there.url}/v1/{account}/default"
    prompt = PROMPT + " demo:cut=3 gap=100" * (situation == CUT)
    command: list[str | Path] = [*installed.command(client)]
    variables, asked = {"PATH": installed.path, "HOME": str(folder), "CI": "1"}, ""
    if client.start is None:
        api = f"{there.url}/client/v4"
        call = {"client": client.name, "base": base, "api": api, "account": account, "token": token, "prompt": prompt}
        asked = json.dumps({**call, "stream": situation == CUT})
    else:
        start = client.start(folder, base, token, prompt)
        command, variables = [*command, *start.words], {**variables, "NO_COLOR": "1", **start.variables}
    there.use_up()
    there.sent.clear()
    done = watch(command, folder, asked, variables, lambda: there.sent[0][1] if there.sent else None)
    calls = [path for caller, _, path in there.sent if caller == account]
    return {
        "requests": len(calls),
        "paths": sorted({path.partition("/default/")[2] or path for path in calls}),
        "silence_s": round(done.silence, 1),
        "in_time": done.in_time,
        "status": done.status,
        "shown": _plain(done.out if client.start is None else _said(done)).replace(token, "TOKEN")[:SHOWN_KEPT],
        "right": right(client, situation, done),
    }


def _said(done: Watched) -> str:
    """The part of an agent's output that its user sees as the outcome."""
    lines = [line for line in _plain(f"{done.err}\n{done.out}").splitlines() if line.strip()]
    for wanted in (OURS, re.compile(r"error", re.IGNORECASE)):
        if found := [line for line in lines if wanted.search(line)]:
            return found[-1]
    return f"no error: {done.out}"


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text).strip()


def right(client: Client, situation: str, done: Watched) -> bool:
    """Whether the client did what it should: show an answer, or show an error to its user."""
    if client.start is None:
        return done.out.startswith("no error:") == (situation == ANSWER)
    if situation == ANSWER:
        return done.status == 0 and "demo provider" in done.out
    return not _said(done).startswith("no error:")


def measure(folder: Path, cache: Path, clients: list[Client], situations: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Run every client in every situation; a row for each client."""
    installed = Installations(cache)
    installed.prepare()
    with place(folder) as there:
        for client in clients:
            row: dict[str, Any] = {
                "client": client.key,
                "version": client.version,
                "note": client.note,
                "kind": client.kind,
            }
            row["found"] = {}
            for situation in situations:
                if situation == CUT and not client.streams:
                    continue
                with tempfile.TemporaryDirectory(prefix="farebox-client-", ignore_cleanup_errors=True) as home:
                    found = observe(client, installed, there, situation, Path(home))
                row["found"][situation] = found
                print(f"{client.key}, {situation}: {'' if found['right'] else 'WRONG '}{cell(found)}", flush=True)
            yield row


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.clients", description=__doc__)
    keys = [client.key for client in CLIENTS]
    parser.add_argument(
        "--only",
        choices=keys,
        action="append",
        metavar="CLIENT",
        help=f"of {', '.join(keys)}; the others keep their rows",
    )
    parser.add_argument(
        "--situation",
        choices=(ANSWER, *SITUATIONS),
        action="append",
        help="may be repeated; a client of the same version keeps its results of the others",
    )
    parser.add_argument(
        "--cache", type=Path, help="folder to keep the installed clients in; a temporary one if omitted"
    )
    options = parser.parse_args()
    clients = [client for client in CLIENTS if options.only is None or client.key in options.only]
    with tempfile.TemporaryDirectory(prefix="farebox-clients-") as temporary:
        folder = Path(temporary)
        (cache := (options.cache or folder / "cache").resolve()).mkdir(parents=True, exist_ok=True)
        (folder / "farebox").mkdir()
        every_right = True
        try:
            for row in measure(folder / "farebox", cache, clients, options.situation or (ANSWER, *SITUATIONS)):
                keep(row, keys)
                every_right &= all(found["right"] for found in row["found"].values())
        except Broken as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    return int(not every_right)


def keep(row: dict[str, Any], keys: list[str]) -> None:
    """Merge a row into the stored results and the page, replacing that of the same client."""
    found = {other["client"]: other for other in (stored.read("clients") or {}).get("rows", ())}
    before = found.get(row["client"], {})
    if before.get("version") == row["version"]:
        row["found"] = {**before["found"], **row["found"]}
    found[row["client"]] = row
    rows = [found[key] for key in keys if key in found]
    head, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n{tables(rows)}\n\n{END}{rest.partition(END)[2]}")
    write("clients", rows)


if __name__ == "__main__":
    sys.exit(main())
