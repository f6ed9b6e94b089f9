"""Stores results as JSON, with the machine, the versions and how busy the machine was before. A later run of the same
command replaces them. bench.stored reads them."""

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from bench import machine
from bench.stored import RESULTS, ROOT, shown

__all__ = ["ROOT", "repeatable", "shown", "write"]

_BEGUN = (time.time(), time.monotonic())
_BUSY_BEFORE = machine.busy()  # sampled for a second when the benchmark starts


def write(name: str, rows: list[dict[str, Any]], **facts: object) -> Path:
    """Store the rows, with all that is needed to repeat the run."""
    found = {
        "command": shlex.join(["python", "-m", _module(), *repeatable(sys.argv[1:])]),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(_BEGUN[0])),
        "took_s": round(time.monotonic() - _BEGUN[1]),
        "busy_before": _BUSY_BEFORE,
        "machine": machine.machine(),
        "versions": machine.versions(),
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**found, **facts, "rows": rows}, indent=1) + "\n")
    return path


def repeatable(words: list[str]) -> list[str]:
    """The arguments without `--cache FOLDER`, which names a folder of this machine and does not affect the results."""
    kept = [word for word in words if not word.startswith("--cache=")]
    while "--cache" in kept:
        at = kept.index("--cache")
        del kept[at : at + 2]
    return kept


def _module() -> str:
    """The name of the module that was run, as `python -m` takes it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return "bench" if spec is None else spec.name.removesuffix(".__main__")
