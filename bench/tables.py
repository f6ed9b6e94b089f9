"""`python -m bench.tables`: writes the figures of bench/results into README.md and docs/performance.md.

A table goes between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`, replacing what is there, followed by the command
that produced it. With `--check` nothing is written, and the exit status is 1 if a page does not match the results.
"""

import argparse
import re
import statistics
import sys
from collections.abc import Callable
from typing import Any

from bench import stored
from bench.builds_table import builds
from bench.cells import ENGINE, MISSING, Result, figure, markdown, note, pair, with_notes
from bench.hold_tables import bursts, holds
from bench.stored import of
from bench.targets import reached, targets

PAGES = ("README.md", "docs/performance.md")
_MARKED = re.compile(r"(<!-- bench:([a-z-]+) -->\n).*?(<!-- /bench:\2 -->)", re.DOTALL)
CLUSTER = ("ledger-citus", "ledger-citus-check", "ledger-citus-workers")

CASES = {
    "ns1": "plain, 1 client",
    "ns16": "plain, 16 clients",
    "ns64": "plain, 64 clients",
    "ns256": "plain, 256 clients",
    "st1": "streams sent in one piece, 1 client",
    "st16": "streams sent in one piece, 16 clients",
    "paced": "32 streams, one event every 20 ms",
}
OPTIONS = {
    "ns16": "a plain call",
    "miss16": "a miss of the cache",
    "hit16": "a hit of the cache",
    "rules16": "with three spend rules",
}
READS = {
    "balance": "`credit-balance`",
    "bare": "bare handler on Granian",
    "bare_own": "bare handler on Farebox's server",
    "usage": "`usage-history`, 90 days by hour",
    "invoices": "`invoice-history`",
    "transfers": "statement of transfers, first page",
    "statement": "usage statement of a month",
    "logs": "logs, first page",
}
GROWN = {
    "balance": "balance",
    "admission": "admission (a whole plain call)",
    "usage": "`usage-history`, 90 days by hour",
    "invoices": "`invoice-history`",
    "transfers": "statement of transfers",
    "statement": "usage statement of a month",
    "logs": "logs, first page",
}

# Tables -----------------------------------------------------------------------------------------------------------


def _database(result: Result) -> str:
    accounts, workers = result["accounts"], result["workers"]
    said = f"{ENGINE[result['engine']]}, {accounts:,} account{'s' if accounts > 1 else ''}"
    return said + (f", {workers} processes" if workers > 1 else "")


def summary() -> str:
    """A few figures of one account's calls, one column per engine."""
    found = {result["engine"]: result for result in of("calls-") if result["accounts"] == 1 and result["workers"] == 1}
    if found.keys() < ENGINE.keys():
        return MISSING
    rows = {engine: {row["case"]["name"]: row for row in found[engine]["rows"]} for engine in ENGINE}
    lines = [[title, *(cell(rows[engine]) for engine in ENGINE)] for title, cell in _SUMMARY.items()]
    return markdown(("billed, on 2 cores shared with the clients and the provider", *ENGINE.values()), lines)


_SUMMARY: dict[str, Callable[[dict[str, Any]], str]] = {
    "latency added to a call, 1 client, p50": lambda rows: (
        f"{rows['ns1']['p50_ms'] - rows['ns1']['direct_p50_ms']:.2f} ms"
    ),
    "calls per second, 64 clients": lambda rows: figure(rows["ns64"]["per_second"], 0),
    "CPU per 1,000 calls, 16 clients: gateway": lambda rows: f"{rows['ns16']['cpu_s_per_1000']:.3f} s",
    "CPU per 1,000 calls, 16 clients: database": lambda rows: (
        f"{rows['ns16']['database_cpu_s_per_1000']:.3f} s"
        if rows["ns16"]["database_cpu_s_per_1000"]
        else "(in process)"
    ),
    "CPU per 100,000 streamed events": lambda rows: f"{rows['paced']['cpu_s_per_100k_events']:.2f} s",
    "memory of the gateway process (PSS)": lambda rows: f"{rows['ns64']['memory_mb']['pss']:.0f} MB",
}


def calls() -> str:
    lines = []
    for result in (results := of("calls-")):
        for row in result["rows"]:
            name, direct = row["case"]["name"], row.get("direct_p50_ms")
            if row["case"]["stream"]:
                continue
            added = None if direct is None else row["p50_ms"] - direct
            database = figure(row["database_cpu_s_per_1000"], 3) if result["engine"] == "postgres" else ""
            lines.append(
                [
                    _database(result), CASES[name], figure(row["cpu_s_per_1000"], 3), database,
                    figure(row["per_second"], 0), pair(row), figure(added), figure(row["memory_mb"]["pss"], 0),
                ]
            )  # fmt: skip
    heads = ("database", "case", "CPU s per 1,000", "database CPU s", "calls/s", "p50 / p99 ms", "added ms", "PSS MB")
    return with_notes(markdown(heads, lines), results) if lines else MISSING


def options() -> str:
    """Cases in turns: the smallest figure of each, and its ratio to a plain call and to a miss."""
    lines = []
    for result in (results := of("options-")):
        used: dict[str, list[float]] = {}
        for row in result["rows"]:
            both = row["cpu_s_per_1000"] + (row["database_cpu_s_per_1000"] or 0)
            used.setdefault(row["case"]["name"], []).append(both)
        for name, seconds in used.items():
            turns, smallest = ", ".join(figure(each, 3) for each in seconds), min(seconds)
            ratios = [figure(smallest / min(used[one])) if one in used else "" for one in ("ns16", "miss16")]
            lines.append([ENGINE[result["engine"]], OPTIONS[name], turns, figure(smallest, 3), *ratios])
    heads = ("database", "case", "CPU s per 1,000, alternating", "smallest", "of a plain call", "of a miss")
    return with_notes(markdown(heads, lines), results) if lines else MISSING


def streams() -> str:
    lines, used = [], []
    for result in of("calls-"):
        rows = [row for row in result["rows"] if row["case"]["stream"] and not row["case"]["ramp_seconds"]]
        for row in rows:
            direct = row.get("direct_first_p50_ms")
            added = None if direct is None else row["first_p50_ms"] - direct
            database = figure(row["database_cpu_s_per_100k_events"], 2) if result["engine"] == "postgres" else ""
            lines.append(
                [
                    _database(result), CASES[row["case"]["name"]], figure(row["cpu_s_per_100k_events"]), database,
                    figure(row["events"] / row["seconds"], 0), pair(row, "first_p50_ms", "first_p99_ms"), figure(added),
                ]
            )  # fmt: skip
        used += [result] * bool(rows)
    heads = ("database", "case", "CPU s per 100,000 events", "database CPU s", "events/s", "first byte p50 / p99 ms")
    return with_notes(markdown((*heads, "added ms"), lines), used) if lines else MISSING


def at_once() -> str:
    lines, used = [], []
    for result in of("calls-"):
        rows = [row for row in result["rows"] if row["case"]["ramp_seconds"]]
        for row in rows:
            wrong = row["bad"] + row["unfinished"] + row["refused"]
            held = "yes" if row["held_up"] else f"no: {wrong} failed" if wrong else "no: first byte after more than 1 s"
            lines.append(
                [
                    _database(result), f"{row['connections']:,}", figure(row["events"] / row["seconds"], 0),
                    pair(row, "first_p50_ms", "first_p99_ms"), figure(row["memory_mb"]["pss"], 0), held,
                ]
            )  # fmt: skip
        used += [result] * bool(rows)
    heads = ("database", "concurrent streams", "events/s", "first byte p50 / p99 ms", "PSS MB", "held up")
    return with_notes(markdown(heads, lines), used) if lines else MISSING


def ledger() -> str:
    lines = []
    for result in (results := [*of("ledger-sqlite"), *of("ledger-postgres")]):
        for row in result["rows"]:
            engine = row.get("engine", result.get("engine", "sqlite"))
            lines.append(
                [
                    ENGINE[engine], f"{row['tasks']:,}", f"{row['accounts']:,}", figure(row["pairs_per_second"], 0),
                    figure(row["cpu_s_per_1000"], 3), figure(row.get("database_cpu_s_per_1000"), 3),
                ]
            )  # fmt: skip
    heads = ("database", "concurrent pairs", "accounts", "pairs/s", "CPU s per 1,000", "database CPU s")
    return with_notes(markdown(heads, lines), results) if lines else MISSING


def cluster() -> str:
    """Citus compared with one PostgreSQL, in turns, and with more workers."""
    lines = []
    for result in (results := [found for name in CLUSTER if (found := stored.read(name)) is not None]):
        for row in result["rows"]:
            workers = f"{row['workers']} workers" if row.get("workers", 1) > 1 else "1 worker"
            capped = f", each {row['cap']:g} of a core" if row.get("cap") else ""
            database = f"Citus, {workers}{capped}" if row["engine"] == "citus" else ENGINE[row["engine"]]
            lines.append(
                [
                    database, str(row["buckets"]), f"{row['tasks']:,}", f"{row['accounts']:,}",
                    figure(row["database_cpu_s_per_1000"]), figure(row.get("coordinator_cpu_s_per_1000")),
                    f"{row['check_cpu_s']:.2f} ({row['pairs']:,})", figure(row["pairs_per_second"], 0),
                ]
            )  # fmt: skip
    heads = (
        "database", "buckets", "concurrent pairs", "accounts", "database CPU s per 1,000", "of which the coordinator",
        "CPU s of a check (pairs)", "pairs/s",
    )  # fmt: skip
    return with_notes(markdown(heads, lines), results) if lines else MISSING


def reads() -> str:
    lines, notes = [], []
    for result in (results := of("reads-")):
        best: dict[tuple[str, int], dict[str, Any]] = {}
        for row in result["rows"]:
            key = (row["case"], row["connections"])
            if key not in best or row["per_second"] > best[key]["per_second"]:
                best[key] = row
        for (name, callers), row in best.items():
            lines.append(
                [
                    "" if name.startswith("bare") else ENGINE[result["engine"]], READS[name], str(callers),
                    figure(row["per_second"], 0), pair(row), figure(row["cpu_s_per_1000"], 3),
                    figure(row["database_cpu_s_per_1000"], 3) if result["engine"] == "postgres" else "",
                ]
            )  # fmt: skip
        ratio = result["ratio_to"]
        notes.append(
            f"On {ENGINE[result['engine']]}, `credit-balance` reaches {ratio['bare']['rate']:.2f} of the bare "
            f"handler's rate on Granian, and {ratio['bare_own']['rate']:.2f} of its rate on Farebox's own server."
        )
    heads = ("database", "read", "clients", "requests/s", "p50 / p99 ms", "CPU s per 1,000", "database CPU s")
    return with_notes("\n\n".join([markdown(heads, lines), " ".join(notes)]), results) if lines else MISSING


def first_paint() -> str:
    results = sorted(of("first-paint-"), key=lambda result: result["engine"], reverse=True)
    found = {result["engine"]: {row["page"]: row for row in result["rows"]} for result in results}
    if found.keys() < ENGINE.keys():
        return MISSING
    lines = []
    for page, row in found["sqlite"].items():
        other = found["postgres"].get(page, {})
        times = (figure(of_engine.get("cpu_p95_ms"), 1) for of_engine in (row, other))
        medians = (figure(of_engine.get("cpu_p50_ms"), 1) for of_engine in (row, other))
        cells = (f"{median} / {time}" for median, time in zip(medians, times, strict=True))
        lines.append([f"`{page}`", *cells, figure(row["sent_kb"], 0), figure(row["scripts_kb"], 1)])
    ratios = " and ".join(
        f"{statistics.median(row['cpu_p50_ms'] for row in result['rows']) / result['bare']['cpu_p50_ms']:.0f} times "
        f"({ENGINE[result['engine']]})"
        for result in results
    )
    said = f"The median page takes {ratios} the processor time of a bare handler on the same server."
    sizes = [f"{result['accounts']:,} accounts, {result['calls']:,} calls" for result in results]
    names = [f"{ENGINE[result['engine']]} ({size}), p50 / p95 ms" for result, size in zip(results, sizes, strict=True)]
    heads = ("page", *names, "sent, kB", "scripts, kB")
    return with_notes("\n\n".join([markdown(heads, lines), said]), results)


def growth() -> str:
    parts = []
    for result in of("growth-"):
        sizes = result["sizes"]
        by_case: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in result["rows"]:
            by_case.setdefault((row["case"], row["of"]), []).append(row)
        heads = [ENGINE[result["engine"]], "account"]
        heads += [f"{size['accounts']:,} accounts, {size['calls']:,} calls" for size in sizes]
        lines = []
        for (case, whose), rows in by_case.items():
            cells = [pair(row) + (f", {row['steps']:,} steps" if row["steps"] else "") for row in rows]
            lines.append([GROWN[case], {"many": "all, in turn"}.get(whose, f"{whose} account"), *cells])
        lines.append(["size on disk", "", *(f"{size['database_mb']:,.0f} MB" for size in sizes)])
        lines.append(["memory of the server", "", *(f"{size['memory_mb']:.0f} MB" for size in sizes)])
        parts.append(with_notes(markdown(heads, lines), [result]))
    return "\n\n".join(parts) or MISSING


def soak() -> str:
    lines = []
    for result in (results := of("soak-")):
        memory = [row.get("own_mb", row["pss_mb"]) for row in result["rows"]]
        responses = ", ".join(f"{count:,} {name}" for name, count in result["answers"].items())
        lines.append(
            [
                ENGINE[result["engine"]], f"{len(memory)}", responses, figure(result["idle_mb"], 0),
                figure(memory[0], 0), figure(memory[-1], 0), figure(result["growth"], 3),
            ]
        )  # fmt: skip
    heads = ("database", "minutes", "responses", "idle MB", "first minute MB", "last minute MB", "last quarter / first")
    return with_notes(markdown(heads, lines), results) if lines else MISSING


def peers() -> str:
    result = stored.read("peers")
    if result is None:
        return MISSING
    lines = []
    for turn in _turns(result):
        calls, events = turn["rows"].get("ns16"), turn["rows"].get("paced")
        ratio = result["ratios"].get(turn["name"], {})
        version = "" if turn["name"].startswith("farebox") else f" {turn['version']}"
        memory = max(sum(row["pss_mb"].values()) for row in turn["rows"].values())
        lines.append(
            [
                turn["title"] + version, turn["bills"],
                _cpu(calls, "cpu_s_per_1000", 3), _times(ratio.get("cpu_of_calls")),
                _cpu(events, "cpu_s_per_100k_events", 1), _times(ratio.get("cpu_of_paced_events")),
                pair(turn["rows"].get("ns1") or {}), figure(memory, 0),
            ]
        )  # fmt: skip
    heads = (
        "gateway", "bills", "CPU s per 1,000 calls", "× Farebox", "CPU s per 100,000 events", "× Farebox",
        "1 client, p50 / p99 ms", "PSS MB",
    )  # fmt: skip
    skipped = [f"Not measured: {name}: {why.splitlines()[0][:120]}" for name, why in result["skipped"].items()]
    return "\n\n".join([markdown(heads, lines), *skipped, note(result)])


def _turns(result: Result) -> list[dict[str, Any]]:
    """One turn per gateway; of Farebox's several, the cheapest."""
    best: dict[str, dict[str, Any]] = {}
    for turn in result["rows"]:
        had = best.get(turn["name"])
        if had is None or _cost(turn) < _cost(had):
            best[turn["name"]] = turn
    return list(best.values())


def _cost(turn: dict[str, Any]) -> float:
    calls = turn["rows"].get("ns16")
    return sum(calls["cpu_s_per_1000"].values()) if calls else float("inf")


def _cpu(row: dict[str, Any] | None, key: str, digits: int) -> str:
    """CPU of the gateway's processes, and of its database's if it has one."""
    if row is None or not row[key]:
        return ""
    return " + ".join(
        f"{seconds:,.{digits}f}" + ("" if who == "gateway" else f" {who}") for who, seconds in row[key].items()
    )


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:,.2f}" if ratio < 10 else f"{ratio:,.0f}"


def aims() -> str:
    lines = [
        [
            target.what,
            target.aim,
            target.measured,
            {True: "yes", False: "no", None: ""}[reached(target)],
            f"`{target.command}`",
        ]
        for target in targets()
    ]
    return markdown(("what", "target", "measured", "met", "command"), lines)


TABLES: dict[str, Callable[[], str]] = {
    "aims": aims,
    "summary": summary,
    "calls": calls,
    "builds": builds,
    "options": options,
    "streams": streams,
    "at-once": at_once,
    "ledger": ledger,
    "cluster": cluster,
    "reads": reads,
    "first-paint": first_paint,
    "growth": growth,
    "soak": soak,
    "holds": holds,
    "bursts": bursts,
    "peers": peers,
}


def written(page: str) -> str:
    """The page with its tables generated from the stored results. Raises KeyError for an unknown table."""
    return _MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}", page)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tables", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    arguments = parser.parse_args()
    stale = []
    for name in PAGES:
        path = stored.ROOT / name
        text = path.read_text()
        new = written(text)
        if new != text:
            stale.append(name)
            if not arguments.check:
                path.write_text(new)
    print(f"{'out of date' if arguments.check else 'written'}: {', '.join(stale) or 'nothing'}")
    return int(arguments.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
