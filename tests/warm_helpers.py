"""Helper processes (ADR 20) that test servers pass on to each other.

A counting helper has loaded a tokenizer, which takes most of a second of processor time, and tests start hundreds of
servers. Helpers serve one account after another anyway, and keep no data of any.
"""

import threading
from collections.abc import Sequence
from typing import Any

from farebox.helper_processes import HelperProcess
from farebox.memory_files import MemoryFile

KEPT_MAX = 4

_lock = threading.Lock()
_kept: list["_WarmHelper"] = []
"""Idle helpers, the most recent last."""


class _WarmHelper(HelperProcess):
    """A helper that outlives its server, unless it died, was interrupted, or has become too large."""

    def __init__(self, memory: int, cpu_seconds: int) -> None:
        super().__init__(memory, cpu_seconds)
        self.bounds = (memory, cpu_seconds)
        self._idle = True

    @property
    def is_reusable(self) -> bool:
        return self._idle and self._process.poll() is None

    async def do(self, head: bytes, files: Sequence[MemoryFile]) -> tuple[str, Any, bool]:
        self._idle = False
        found = await super().do(head, files)
        _, _, spent = found
        self._idle = not spent
        return found

    def break_off(self) -> None:
        if not self._idle:
            super().break_off()

    def end(self) -> str:
        if not self.is_reusable:
            return super().end()
        with _lock:
            _kept.append(self)
            surplus = _kept.pop(0) if len(_kept) > KEPT_MAX else None
        if surplus is not None:
            surplus.end_for_good()
        return "kept for the next server"

    def end_for_good(self) -> None:
        super().end()


def warm_helper(memory: int, cpu_seconds: int) -> HelperProcess:
    """An idle or new helper with these bounds."""
    with _lock:
        for helper in reversed(_kept):
            if helper.bounds == (memory, cpu_seconds) and helper.is_reusable:
                _kept.remove(helper)
                return helper
    return _WarmHelper(memory, cpu_seconds)


def end_warm_helpers() -> None:
    """End all with the test process."""
    while _kept:
        _kept.pop().end_for_good()
