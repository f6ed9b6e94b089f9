"""What looks on: log lines, alarms, whoever waits. Once a charge is durable, none of them may turn it into an error."""

import contextlib
from types import TracebackType

import structlog

log = structlog.get_logger("farebox.calls")


class looking_on:
    """The block is an observer's: what it raises ends here, and is told in the log where that can be done.

    A class of its own, because a generator of contextlib's costs several times as much, and every call has three.
    """

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
        with contextlib.suppress(Exception):
            log.error("observer failed", what=self._what, exc_info=error)
        return True
