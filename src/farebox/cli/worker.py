"""One gateway process of several: `python -m farebox.cli.worker`, started only by farebox.cli.workers.

It reads one line with its configuration from standard input, and writes one to standard output: that it is serving, or
why it cannot. Its standard input ends when the parent process is gone.
"""

import socket
import sys
from typing import TYPE_CHECKING

import msgspec

from farebox import lean_imports
from farebox.settings import Settings

if TYPE_CHECKING:
    from farebox.counts import CounterSheet


class WorkerStart(msgspec.Struct, frozen=True):
    """The configuration of a worker. It contains secrets, so it is sent through a pipe and not as arguments or in the
    environment."""

    settings: Settings
    base_url: str
    demo_url: str | None
    fake_stripe_url: str | None
    reserved: int
    """File descriptor of the socket that is bound to the port."""
    metrics_reserved: int | None
    """File descriptor of the socket of the metrics port, if there is one."""
    sheet: int
    """File descriptor of the sheet on which all workers count; it has this many rows, with this layout."""
    places: int
    layout: str
    place: int
    """The row of this worker."""


class StartReport(msgspec.Struct, frozen=True):
    """What a worker reports once, after its start."""

    error: str | None = None
    """Why it cannot serve; None: it is serving."""


def main() -> None:
    """Serve; the exit status is 0 after a requested stop, 1 if it could not start."""
    line = sys.stdin.buffer.readline()
    if not line:
        sys.exit(1)  # the parent process has exited already
    start = msgspec.json.decode(line, type=WorkerStart)

    try:
        lean_imports.load_for_server()
        import uvloop

        from farebox.app import serve_as_worker
        from farebox.host_resources import HostResources

        host = HostResources(
            start.settings,
            start.base_url,
            start.demo_url,
            start.fake_stripe_url,
            socket.socket(fileno=start.reserved),
            None if start.metrics_reserved is None else socket.socket(fileno=start.metrics_reserved),
            _sheet(start),
            start.place,
        )
        uvloop.run(serve_as_worker(host, orphaned=sys.stdin.fileno(), on_ready=lambda _: _report(StartReport())))
    except Exception as error:  # noqa: BLE001 - as in farebox.cli.main: any error is reported in one line
        from farebox.cli.failures import in_one_line

        _report(StartReport(error=in_one_line(error)))
        sys.exit(1)


def _sheet(start: WorkerStart) -> "CounterSheet | None":
    """The sheet of all workers; None if its layout is that of another release, installed after they were started: then
    this worker counts separately until all are restarted.
    """
    from farebox.counts import CounterSheet
    from farebox.metrics.families import LAYOUT

    return CounterSheet(LAYOUT, start.places, start.sheet) if start.layout == LAYOUT.digest else None


def _report(report: StartReport) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
