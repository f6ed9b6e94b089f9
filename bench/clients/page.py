"""Writes the tables of docs/clients.md."""

import re
from typing import Any

from bench.cells import markdown
from bench.clients.catalogue import NOT_DRIVEN
from bench.clients.place import SITUATIONS

SHOWN_MAX = 130
"""Characters."""
SILENT_SECONDS = 10.0
"""From here on, the table says that a client waits."""
OURS = re.compile(r"Insufficient credits|Spending limit exceeded|Rate limited|The response of [\w-]+ broke off")
_KINDS = {"python": "Python SDKs", "node": "TypeScript SDKs", "agent": "Coding agents"}
_HEADERS = re.compile(r"headers: \{.*?\}, ")
"""Cohere's SDK shows all of them."""


def cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "does not stream"
    waits = ""
    if found["silence_s"] >= SILENT_SECONDS:
        waits = f", waits silently {found['silence_s']:.0f} s" if found["in_time"] else ", **waits silently**"
    return (
        f"{found['requests']}{waits}: `{excerpt(found['shown'])}`"
        if found["in_time"]
        else f"{found['requests']}{waits}"
    )


def excerpt(text: str) -> str:
    """A short excerpt that begins with Farebox's own message if the text contains it."""
    text = " ".join(_HEADERS.sub("", text).split()).replace("|", "\\|").replace("`", "'")
    ours = OURS.search(text)
    if ours and ours.start() > SHOWN_MAX // 2:
        text = f"{text[: SHOWN_MAX // 3]} … {text[ours.start() :]}"
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…"


def tables(rows: list[dict[str, Any]]) -> str:
    parts = []
    for kind, title in _KINDS.items():
        lines = [
            [f"`{row['version']}`{row['note']}", *(cell(row["found"].get(situation)) for situation in SITUATIONS)]
            for row in rows
            if row["kind"].endswith(kind)
        ]
        parts += [f"## {title}", markdown(("client", *SITUATIONS), lines)]
    parts += ["Not tested:", "\n".join(f"- `{name}`: {why}." for name, why in NOT_DRIVEN.items())]
    return "\n\n".join(parts)
