"""Formats the cells of tables, and the note below a table."""

from collections.abc import Iterable
from typing import Any, Final

from bench import stored

Result = dict[str, Any]

ENGINE: Final = {"sqlite": "SQLite", "postgres": "PostgreSQL"}
MISSING: Final = "Not measured yet."


def figure(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def pair(row: dict[str, Any], low: str = "p50_ms", high: str = "p99_ms") -> str:
    if row.get(low) is None:
        return ""
    return f"{_short(row[low])} / {_short(row[high])}"


def _short(ms: float) -> str:
    return figure(ms, 0 if ms >= 100 else 1 if ms >= 10 else 2)


def markdown(headings: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    heads = list(headings)
    rows = [heads, ["---"] * len(heads), *map(list, lines)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def note(result: Result) -> str:
    """The source of the figures: command, date and machine, with a warning if the machine was busy."""
    machine = result["machine"]
    said = f"`{result['command']}`, {result['at'][:10]}: {machine['cores']} cores, {machine['processor']}"
    if result.get("syncs_per_second"):
        said += f"; the disk syncs {result['syncs_per_second']:,} small writes per second"
    if result["busy_before"] > stored.BUSY:
        said += (
            f". **Needs remeasuring:** other programs were using {result['busy_before']:.0%} of the CPU when the run "
            "started"
        )
    return said + "."


def with_notes(table: str, results: Iterable[Result]) -> str:
    return "\n\n".join([table, *(note(result) for result in results)])
