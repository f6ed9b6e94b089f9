"""Observers: log lines, alarms, waiting calls. Once a charge is durable, none of them may turn it into an error."""

import contextlib
from types import TracebackType

import structlog

log = structlog.get_logger("farebox.calls")


def observer_failed(what: str, error: Exception) -> None:
    """An observer raised an exception: log it, if possible, and continue."""
    with contextlib.suppress(Exception):
        log.error("observer failed", what=what, exc_info=error)


class best_effort:
    """A block that must not fail the call: an exception in it is logged, if possible, and not passed on."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        observer_failed(self._what, error)
        return True
