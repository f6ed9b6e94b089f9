"""One gateway process of several: `python -m farebox.cli.worker`, started only by farebox.cli.workers.

It reads one line from standard input, with its configuration, and writes one to standard output: that it serves, or why
it cannot. Its standard input ends when the process that started it is gone.
"""

import socket
import sys
from typing import TYPE_CHECKING

import msgspec

from farebox.settings import Settings

if TYPE_CHECKING:
    from farebox.counts import Sheet


class Start(msgspec.Struct, frozen=True):
    """What a worker is told. With secrets, hence through a pipe and not through arguments or the environment."""

    settings: Settings
    base_url: str
    demo_url: str | None
    fake_stripe_url: str | None
    reserved: int
    """File descriptor of the socket that is bound to the port."""
    metrics_reserved: int | None
    """That of the port of the metrics, where they have one."""
    sheet: int
    """The descriptor of the sheet on which all workers count; it has this many rows, with this layout."""
    places: int
    layout: str
    place: int
    """Which one is this worker's."""


class Said(msgspec.Struct, frozen=True):
    """What a worker says once."""

    error: str | None = None
    """Why it cannot serve; None: it serves."""


def main() -> None:
    """Serve; the exit status is 0 after a stop that was asked for, 1 where it could not start."""
    line = sys.stdin.buffer.readline()
    if not line:
        sys.exit(1)  # whoever started us has gone already
    start = msgspec.json.decode(line, type=Start)

    try:
        import uvloop

        from farebox.app import serve_as_worker
        from farebox.host_resources import HostResources

        around = HostResources(
            start.settings,
            start.base_url,
            start.demo_url,
            start.fake_stripe_url,
            socket.socket(fileno=start.reserved),
            None if start.metrics_reserved is None else socket.socket(fileno=start.metrics_reserved),
            _sheet(start),
            start.place,
        )
        uvloop.run(serve_as_worker(around, orphaned=sys.stdin.fileno(), on_ready=lambda _: _say(Said())))
    except Exception as error:  # noqa: BLE001 - as in farebox.cli.main: whatever it is, it is told in one line
        from farebox.cli.failures import in_one_line

        _say(Said(error=in_one_line(error)))
        sys.exit(1)


def _sheet(start: Start) -> "Sheet | None":
    """The sheet of all workers; None where it is another release's, installed since they were started: then this one
    counts for itself, until all are started again."""
    from farebox.counts import Sheet
    from farebox.metrics.families import LAYOUT

    return Sheet(LAYOUT, start.places, start.sheet) if start.layout == LAYOUT.digest else None


def _say(said: Said) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
