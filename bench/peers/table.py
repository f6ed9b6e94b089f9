"""Formats the results as tables: the cost of a call in comparison with Farebox, then rates and times."""

from collections.abc import Callable
from statistics import mean
from typing import Any

from bench.peers.measure import GATEWAY
from bench.peers.ours import NAME as FAREBOX

Turn = dict[str, Any]
"""One turn of a gateway: name, title, bills, version and its rows by case."""
Figure = Callable[[Turn], float | None]


def cpu_of_calls(turn: Turn) -> float | None:
    """CPU seconds of the gateway alone per 1,000 calls, with 16 callers."""
    row = turn["rows"].get("ns16")
    return row["cpu_s_per_1000"][GATEWAY] if row else None


def cpu_of_events(turn: Turn) -> float | None:
    """CPU seconds of the gateway alone per 100,000 paced events."""
    row = turn["rows"].get("paced")
    return row["cpu_s_per_100k_events"][GATEWAY] if row and row["cpu_s_per_100k_events"] else None


def ratio(turns: list[Turn], at: int, figure: Figure) -> float | None:
    """Ratio to Farebox's previous and next turns, because the machine's other load changes over time."""
    ours = [number for number, turn in enumerate(turns) if turn["name"] == FAREBOX and figure(turn)]
    beside = {max((n for n in ours if n < at), default=None), min((n for n in ours if n > at), default=None)} - {None}
    own = figure(turns[at])
    if own is None or not beside or turns[at]["name"] == FAREBOX:
        return None
    return round(own / mean(figure(turns[number]) or 0 for number in beside if number is not None), 3)


def costs(turns: list[Turn]) -> str:
    lines = [
        "CPU seconds of the gateway's own processes; x: how many times Farebox's in the turns before and after it",
        f"{'gateway':<18}{'version':<11}{'bills':<16}{'s/1,000 calls':>14}{'x':>9}{'s/100k events':>15}{'x':>9}"
        f"{'PSS MB':>9}{'pace ms':>9}{'failed':>8}  apart: s/1,000 calls, s/100k events, MB",
    ]
    for at, turn in enumerate(turns):
        rows = turn["rows"].values()
        memory = max((row["pss_mb"][GATEWAY] for row in rows), default=None)
        pace = mean(row["pace_ms"] for row in rows) if rows else None
        lines.append(
            f"{turn['name']:<18}{turn['version']:<11}{turn['bills']:<16}"
            f"{_number(cpu_of_calls(turn), 14, 3)}{_number(ratio(turns, at, cpu_of_calls), 9, 2)}"
            f"{_number(cpu_of_events(turn), 15, 2)}{_number(ratio(turns, at, cpu_of_events), 9, 2)}"
            f"{_number(memory, 9, 0)}{_number(pace, 9, 0)}{sum(failures(row) for row in rows):>8}  {_apart(turn)}"
        )
    return "\n".join(lines)


def rates(turns: list[Turn]) -> str:
    lines = [
        "calls/s and p50 / p99 in ms; they share the cores with the callers and the provider",
        f"{'gateway':<18}{'1 caller':>28}{'16 callers':>29}{'64 callers':>29}{'paced ev/s':>12}{'first byte':>20}",
    ]
    for turn in turns:
        rows = turn["rows"]
        paced = rows.get("paced")
        events = paced["events"] / paced["seconds"] if paced else None
        first = _pair(paced, "first_p50_ms", "first_p99_ms")
        cells = [f"{_number(_get(rows, name, 'per_second'), 9, 0)}{_pair(rows.get(name)):>19}" for name in PLAIN]
        lines.append(f"{turn['name']:<18}{' '.join(cells)}{_number(events, 12, 0)}{first:>20}")
    return "\n".join(lines)


PLAIN = ("ns1", "ns16", "ns64")


def billing(turns: list[Turn]) -> str:
    lines = ["nano-dollars not yet billed when the last answer was there, and when the books were right"]
    for turn in turns:
        rows = [row for row in turn["rows"].values() if "lag_s" in row]
        if rows:
            at_end = sum(row["unbilled_at_end_nanos"] for row in rows)
            lost = sum(row["unbilled_nanos"] for row in rows)
            end = f"still missing {lost:,}" if lost else "exact"
            later = max(row["lag_s"] for row in rows)
            lines.append(f"{turn['name']:<18}{at_end:>16,} open, {later:>5.1f} s later {end}")
    return "\n".join(lines)


def failures(row: dict[str, Any]) -> int:
    return int(row["bad"] + row["unfinished"] + row["refused"])


def _apart(turn: Turn) -> str:
    calls, events = turn["rows"].get("ns16"), turn["rows"].get("paced")
    row = calls or events
    if row is None:
        return ""
    parts = []
    for name in row["cpu_s"]:
        if name != GATEWAY:
            of_calls = _plain(calls["cpu_s_per_1000"][name] if calls else None)
            of_events = _plain(events["cpu_s_per_100k_events"][name] if events and events["events"] else None)
            parts.append(f"{name} {of_calls}, {of_events}, {row['pss_mb'][name]:.0f}")
    return "; ".join(parts)


def _get(rows: dict[str, Any], case: str, key: str) -> float | None:
    return rows[case][key] if case in rows else None


def _pair(row: dict[str, Any] | None, low: str = "p50_ms", high: str = "p99_ms") -> str:
    if row is None or row.get(low) is None:
        return "-"
    return f"{_short(row[low])} / {_short(row[high])}"


def _short(ms: float) -> str:
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.2f}"


def _plain(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.2f}"


def _number(figure: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if figure is None else f"{figure:>{width},.{digits}f}"
