"""What looks on: log lines, alarms, whoever waits. Once a charge is durable, none of them may turn it into an error."""

import contextlib
from collections.abc import Iterator

import structlog

log = structlog.get_logger("farebox.calls")


@contextlib.contextmanager
def looking_on(what: str) -> Iterator[None]:
    """The block is an observer's: what it raises ends here, and is told in the log where that can be done."""
    try:
        yield
    except Exception:
        with contextlib.suppress(Exception):
            log.exception("observer failed", what=what)
