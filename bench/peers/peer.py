"""Defines a peer and starts it: on loopback, with an empty environment and without our privileges.

A peer is third-party code. It gets none of our environment variables, a home folder that is removed after the run and,
if the benchmark runs as root, the user `nobody`.
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
"""The slowest peer takes ten seconds to import on an idle machine, and a minute on a busy one."""
STOP_SECONDS = 10.0
UNPRIVILEGED = "nobody"
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

Command = Sequence[str | Path]
Bills = Literal["nothing", "after the call", "holds before"]


@dataclass(frozen=True, slots=True)
class Served:
    """A running gateway."""

    pid: int
    """The process that was started; it and its descendants count as the gateway."""
    port: int
    path: str = "/v1/chat/completions"
    headers: Sequence[str] = ()
    targets: Path | None = None
    """A file of paths and headers, one line per account, instead of a single path."""
    model: str | None = "gpt-4o-mini"
    """The model in the body; None if the path names it and the body may not."""
    apart: Mapping[str, int] = field(default_factory=dict)
    """Process trees whose CPU and memory are listed separately: a database, a stand-in."""
    billed: Callable[[], int] | None = None
    """The amount charged since the start, in nano-dollars, as another process reads it."""
    says_done: bool = True
    """Whether a stream ends with `data: [DONE]`, as OpenAI's does."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One gateway: how to install it, how to start it, and whether it bills."""

    name: str
    title: str
    bills: Bills
    install: Callable[[], None]
    """Raises Broken or CalledProcessError."""
    version: Callable[[], str | None]
    """None if it is not installed."""
    serve: Callable[[Path, Mock], AbstractContextManager[Served]]
    """Starts it in a separate folder and stops it when the block ends. Raises Broken if it does not start."""


@contextlib.contextmanager
def running(command: Command, folder: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a peer's program, with its children, until the block ends. Its output goes to `log` in the folder."""
    with (folder / "log").open("wb") as log:
        process = _start(command, folder, environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield process
    finally:
        _stop(process)


def finish(command: Command, folder: Path, *, seconds: float, **environment: str) -> None:
    """Run a peer's program to its end. Raises Broken with its last output."""
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
    """The Python for peers. Root's may be in a folder that other users cannot read, so the system's is preferred."""
    return shutil.which("python3.11", path=SYSTEM_PATH) or sys.executable


def log_of(folder: Path) -> str:
    return (folder / "log").read_text(errors="replace")


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it wrote nothing"


def _start(command: Command, folder: Path, environment: Mapping[str, str], **streams: Any) -> subprocess.Popen[bytes]:
    """Start it in a new session, so that an interrupt from the keyboard reaches only the benchmark, which stops the
    peer."""
    user: dict[str, Any] = {"user": UNPRIVILEGED, "extra_groups": []} if os.geteuid() == 0 else {}
    base = {"PATH": SYSTEM_PATH, "HOME": str(folder), "LANG": "C.UTF-8"}
    try:
        return subprocess.Popen(
            command, cwd=folder, env={**base, **environment}, start_new_session=True, **user, **streams
        )
    except OSError as error:
        raise Broken(f"{command[0]} cannot be run: {error.strerror}") from error


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Terminate it, then kill whatever is left of it and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _status(port: int, path: str) -> int:
    """The status of the response; 999 without one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 999
