"""What a peer is, and how one is started: on loopback, with an empty environment and without our rights.

A peer is other people's code. It is given no variable of ours, a home folder of its own that goes after the run and,
where the bench runs as root, the user `nobody`.
"""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.served import Broken, Mock

PEERS = Path(__file__).parent.parent / ".peers"
START_SECONDS = 180.0
"""The slowest of them imports for ten seconds on an idle machine, and for a minute on a busy one."""
STOP_SECONDS = 10.0
UNPRIVILEGED = "nobody"
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

Command = Sequence[str | Path]
Bills = Literal["nothing", "after the call", "holds before"]


@dataclass(frozen=True, slots=True)
class Served:
    """A gateway that answers."""

    pid: int
    """Of the process that was started; all below it count as the gateway."""
    port: int
    path: str = "/v1/chat/completions"
    headers: Sequence[str] = ()
    targets: Path | None = None
    """Instead of path and headers: a file of them, one line an account."""
    model: str | None = "gpt-4o-mini"
    """None if the path says it and the body may not."""
    apart: Mapping[str, int] = field(default_factory=dict)
    """Process trees whose CPU and memory are listed apart: a database, a stand-in."""
    billed: Callable[[], int] | None = None
    """What has been charged since the start, in nano-dollars, as another process reads it."""
    says_done: bool = True
    """Whether a stream ends with `data: [DONE]`, as OpenAI's does."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One gateway: how to install it, how to start it, and what it does about money."""

    name: str
    title: str
    bills: Bills
    install: Callable[[], None]
    """Raises Broken or CalledProcessError."""
    version: Callable[[], str | None]
    """None if it is not installed."""
    serve: Callable[[Path, Mock], AbstractContextManager[Served]]
    """Started in a folder of its own; stopped when the block ends. Raises Broken if it does not start."""


@contextlib.contextmanager
def running(command: Command, folder: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program of a peer's, with its children, until the block ends. What it writes goes to `log` in the folder."""
    with (folder / "log").open("wb") as log:
        process = _start(command, folder, environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield process
    finally:
        _stop(process)


def finish(command: Command, folder: Path, *, seconds: float, **environment: str) -> None:
    """Run a program of a peer's to its end. Raises Broken with the last it wrote."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = _start(command, folder, environment, **streams)
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise Broken(f"{Path(command[0]).name} did not end within {seconds:g} s") from None
    finally:
        _stop(process)
    if process.returncode:
        raise Broken(f"{Path(command[0]).name} ended with {process.returncode}: {last_line(output.decode())}")


def await_health(process: subprocess.Popen[bytes], served: Served, folder: Path, path: str) -> None:
    """Return when a GET of `path` is answered with less than 500. Raises Broken with the last line of the log."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Broken(f"it ended with {process.returncode}: {last_line(log_of(folder))}")
        if _status(served.port, path) < 500:
            return
        time.sleep(0.1)
    raise Broken(f"it did not answer within {START_SECONDS:g} s: {last_line(log_of(folder))}")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def hand_over(folder: Path) -> None:
    """Let the user that peers run as write into a folder and all that is in it."""
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, UNPRIVILEGED)


def interpreter() -> str:
    """The Python of the peers. Root's own may be in a folder that is closed to others, so the system's goes first."""
    return shutil.which("python3.11", path=SYSTEM_PATH) or sys.executable


def log_of(folder: Path) -> str:
    return (folder / "log").read_text(errors="replace")


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it wrote nothing"


def _start(command: Command, folder: Path, environment: Mapping[str, str], **streams: Any) -> subprocess.Popen[bytes]:
    """In a session of its own: an interrupt from the keyboard is for the bench, which then stops the peer."""
    user: dict[str, Any] = {"user": UNPRIVILEGED, "extra_groups": []} if os.geteuid() == 0 else {}
    base = {"PATH": SYSTEM_PATH, "HOME": str(folder), "LANG": "C.UTF-8"}
    try:
        return subprocess.Popen(
            command, cwd=folder, env={**base, **environment}, start_new_session=True, **user, **streams
        )
    except OSError as error:
        raise Broken(f"{command[0]} cannot be run: {error.strerror}") from error


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it, then end whatever is left of it and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _status(port: int, path: str) -> int:
    """999 where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 999
