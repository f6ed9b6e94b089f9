"""The tables of holds: before holds near the end of a balance were made tighter, and now."""

from typing import Any, Final

from bench import stored
from bench.cells import ENGINE, MISSING, figure, markdown

_HOLDS: Final = {"before": "holds-before", "now": "holds"}
"""The results of the same command, run with the release before and with this one."""


def holds() -> str:
    """Holds of recorded calls, before they were made tighter and now."""
    found = [(when, result) for when, name in _HOLDS.items() if (result := stored.read(name)) is not None]
    lines = []
    for when, result in found:
        for row in result["rows"]:
            if row["case"] == "recorded":
                limit = row.get("output_default")
                kind = row["kind"] if limit is None else f"all, with `FAREBOX_OUTPUT_DEFAULT={limit}`"
                shares = [f"{row[name] / row['calls']:.1%}" for name in ("refused", "limited", "cut")]
                ratios = [figure(row["median"], 0), figure(row["p90"], 0)]
                cells = [row["balance"], kind, f"{row['calls']:,}", *ratios, *shares, str(row["overrun"])]
                lines.append((when, cells))
    order = {name: place for place, name in enumerate(("ample", "1 USD", "0.10 USD"))}
    lines.sort(key=lambda line: (order[line[1][0]], line[1][1].startswith("all,")))
    shown = [[cells[0], cells[1], when, *cells[2:]] for when, cells in _pairs(lines)]
    heads = (
        "balance", "calls", "", "number", "hold / charge, median", "p90", "refused, though affordable", "limited",
        "cut", "overruns",
    )  # fmt: skip
    said = [
        f"{when} `{result['command']}`, {result['at'][:10]}" for when, result in found
    ]  # no times: the machine does not matter
    return f"{markdown(heads, shown)}\n\n{'; '.join(said).capitalize()}." if shown else MISSING


def _pairs(lines: list[tuple[str, list[str]]]) -> list[tuple[str, list[str]]]:
    """Each kind of call before and now, one below the other."""
    kinds = list(dict.fromkeys((cells[0], cells[1]) for _, cells in lines))
    return [line for kind in kinds for line in lines if (line[1][0], line[1][1]) == kind]


def bursts() -> str:
    """How many of 200 concurrent calls, on credit for exactly 20, reached the provider."""
    counted: dict[tuple[str, bool, int], dict[str, dict[str, Any]]] = {}
    for when, name in _HOLDS.items():
        for row in (stored.read(name) or {"rows": []})["rows"]:
            if row["case"] == "burst":
                counted.setdefault((row["engine"], row["stream"], row["output"]), {})[when] = row
    lines = [
        [
            ENGINE[engine], "streams" if stream else "plain", f"{output:,}",
            *(str(rows[when]["at_once"]) if when in rows else "" for when in _HOLDS),
            str(sum(row["overruns"] for row in rows.values())),
        ]
        for (engine, stream, output), rows in counted.items()
    ]  # fmt: skip
    heads = ("database", "calls", "`max_tokens`", "at once, before", "now", "overruns")
    return markdown(heads, lines) if lines else MISSING
