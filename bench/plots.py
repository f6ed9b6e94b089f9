"""`python -m bench.plots`: draws the figures of bench/results as plots in docs/img."""

import sys
from typing import Any

from bench import stored, svg
from bench.stored import of

FOLDER = stored.ROOT / "docs" / "img"
_ENGINE = {"sqlite": "SQLite", "postgres": "PostgreSQL"}
_COLOR = {"sqlite": "a", "postgres": "b"}
_OURS = {"farebox": "a", "farebox-postgres": "b"}
PLAIN = ("ns1", "ns16", "ns64", "ns256")
GROWN = (("balance", "many"), ("admission", "many"), ("usage", "busy"), ("logs", "busy"), ("statement", "busy"))


def cost_of_calls() -> str | None:
    return _beside_peers(
        "CPU seconds per 1,000 plain calls, 16 callers",
        "Gateway and its database together; logarithmic. Farebox holds, charges and records every call.",
        "ns16",
        "cpu_s_per_1000",
    )


def cost_of_streams() -> str | None:
    return _beside_peers(
        "CPU seconds per 100,000 stream events, 32 streams, an event each 20 ms",
        "Gateway and its database together; logarithmic.",
        "paced",
        "cpu_s_per_100k_events",
    )


def _beside_peers(title: str, said: str, case: str, key: str) -> str | None:
    """All gateways of one run of bench.peers."""
    found: dict[str, svg.Bar] = {}
    for turn in (stored.read("peers") or {"rows": []})["rows"]:
        row = turn["rows"].get(case)
        if row is None or not row[key]:
            continue
        whole = sum(row[key].values())
        bills = "does not bill" if turn["bills"] == "nothing" else f"bills: {turn['bills']}"
        bar = svg.Bar(turn["title"], whole, _OURS.get(turn["name"], "d"), f"{svg.number(whole)}, {bills}")
        if turn["name"] not in found or whole < found[turn["name"]].figure:  # Farebox has several turns
            found[turn["name"]] = bar
    return svg.bars(title, said, sorted(found.values(), key=lambda bar: bar.figure)) if found else None


def _case(result: dict[str, Any] | None, case: str) -> dict[str, Any] | None:
    rows = [] if result is None else [row for row in result["rows"] if row["case"]["name"] == case]
    return rows[0] if rows else None


def latency() -> str | None:
    found = []
    for engine, name in _ENGINE.items():
        rows = [row for case in PLAIN if (row := _case(stored.read(f"calls-{engine}-1"), case))]
        for key, said in (("p50_ms", "p50"), ("p99_ms", "p99")):
            points = [(str(row["connections"]), row[key]) for row in rows]
            if points:
                found.append(svg.Line(f"{name} {said}", points, _COLOR[engine], dashed=said == "p99"))
    title = "Time of a billed plain call, milliseconds"
    said = "Provider that answers at once, on the same two cores; logarithmic."
    return svg.lines(title, said, found, "callers at once") if found else None


def pairs() -> str | None:
    found = []
    for result in [*of("ledger-sqlite"), *of("ledger-postgres")]:
        for row in result["rows"]:
            engine = row.get("engine", result.get("engine", "sqlite"))
            accounts = f"{row['accounts']:,} account{'s' if row['accounts'] > 1 else ''}"
            name = f"{_ENGINE[engine]}, {accounts}, {row['tasks']:,} at once"
            found.append(svg.Bar(name, row["pairs_per_second"], _COLOR[engine]))
    title = "The ledger alone: durable holds and charges, pairs a second"
    said = "Each hold and each charge is on the disk before the next step."
    return svg.bars(title, said, found, svg.linear) if found else None


def growth() -> str | None:
    found = []
    for result in of("growth-"):
        engine = result["engine"]
        for case, whose in GROWN:
            rows = [row for row in result["rows"] if row["case"] == case and row["of"] == whose]
            points = [(f"{row['accounts']:,} accounts, {row['calls']:,} calls", row["p50_ms"]) for row in rows]
            said = f"{case}, busy account" if whose == "busy" else case
            found.append(svg.Line(f"{said}, {_ENGINE[engine]}", points, _COLOR[engine], dashed=whose == "busy"))
    title = "Time of a request against the size of the database, p50 in milliseconds"
    said = "One caller; the busy account has a tenth of all calls; logarithmic."
    return svg.lines(title, said, found, "") if found else None


PLOTS = {
    "calls": cost_of_calls,
    "streams": cost_of_streams,
    "latency": latency,
    "ledger": pairs,
    "growth": growth,
}


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, plot in PLOTS.items():
        drawn = plot()
        if drawn is None:
            print(f"{name}: not measured yet")
            continue
        path = FOLDER / f"{name}.svg"
        path.write_text(drawn)
        print(f"written: {stored.shown(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
