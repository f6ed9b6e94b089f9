"""Reads stored results: one JSON file for each run that docs/performance.md shows."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
BUSY = 0.15
"""The part of the processor time that other programs used before a run; above this its figures are not reliable."""


def read(name: str) -> dict[str, Any] | None:
    """The stored result; None if it has not been measured."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def of(prefix: str) -> list[dict[str, Any]]:
    """All results with this prefix: few accounts before many, SQLite before PostgreSQL."""
    names = sorted((path.stem for path in RESULTS.glob(f"{prefix}*.json")), key=lambda name: ("postgres" in name, name))
    kept = [result for name in names if (result := read(name)) is not None]
    return sorted(kept, key=lambda result: result.get("accounts", 0))


def shown(path: Path) -> str:
    """The path, relative to the repository."""
    return str(path.relative_to(ROOT))
