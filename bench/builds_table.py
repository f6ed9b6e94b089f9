"""The table of bench.builds."""

import statistics
from typing import Any, Final

from bench import stored
from bench.cells import MISSING, figure, markdown, with_notes

BUILDS: Final = {
    "call_sqlite": ("CPU s per 1,000 plain calls, 16 clients, SQLite", 3, "ratio 0.5"),
    "call_postgres": ("the same on PostgreSQL: gateway", 3, "ratio 0.5"),
    "call_database": ("the same on PostgreSQL: database", 3, "ratio 0.5"),
    "written": ("bytes written to disk for each call, SQLite", 0, "ratio 0.4"),
    "pairs_one_sqlite": ("durable ledger pairs/s, SQLite, one account", 0, "20,000"),
    "pairs_many_sqlite": ("the same with 10,000 accounts", 0, ""),
    "pairs_one_postgres": ("durable ledger pairs/s, PostgreSQL, one account", 0, ""),
    "pairs_many_postgres": ("the same with 10,000 accounts", 0, "10,000"),
    "balance_sqlite": ("`credit-balance`, rate relative to a bare handler on Granian, SQLite", 2, ""),
    "balance_postgres": ("the same on PostgreSQL", 2, "0.5"),
    "events_sqlite": ("CPU s per 100,000 paced stream events, SQLite", 2, ""),
    "events_postgres": ("the same on PostgreSQL", 2, ""),
}
"""Figures of bench.builds: what they are, decimals, target."""


def builds() -> str:
    """An earlier build and this one, in turns: every figure, and the ratio of the medians."""
    result = stored.read("builds")
    if result is None:
        return MISSING
    lines = []
    for name, (what, digits, target) in BUILDS.items():
        found = {
            build: [row["figures"][name] for row in result["rows"] if row["build"] == build and name in row["figures"]]
            for build in ("before", "now")
        }
        if all(found.values()):
            ratio = statistics.median(found["now"]) / statistics.median(found["before"])
            turns = (", ".join(figure(each, digits) for each in values) for values in found.values())
            lines.append([what, *turns, figure(ratio), target])
    before, now = (f"`{result['commits'][build]}`" for build in ("before", "now"))
    heads = ("alternating runs", f"before ({before})", f"now ({now})", "ratio of the medians", "target")
    return with_notes(markdown(heads, lines), [result]) + _pace(result["rows"])


def _pace(rows: list[dict[str, Any]]) -> str:
    paces = [row["pace_ms"] for row in rows if "pace_ms" in row]
    if not paces:
        return ""
    return f"\n\nA fixed piece of work took {min(paces)} to {max(paces)} ms of CPU, measured before each run.\n"
