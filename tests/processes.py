"""Farebox as separate processes, for tests that kill them or start several.

`start` and `run` replace `subprocess.Popen` and `subprocess.run` of `python -m farebox.cli.main`, at a tenth of the
processor time: the process is forked from one that has loaded Farebox's modules (tests.fork_server), and so are workers
of `farebox serve --workers N`. A test of the start itself uses `start_fresh`.
"""

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.waiting import SECONDS

ROOT = Path(__file__).parent.parent
Output = int | IO[bytes]
FAREBOX = "from farebox.cli.main import run; run()"


class Process:
    """The part of `subprocess.Popen` that tests use."""

    def __init__(self, told: socket.socket, stdout: IO[bytes] | None) -> None:
        self._told = told
        self.stdout = stdout
        self.pid = int(self._line(SECONDS))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, if it has ended; negative: the number of the signal that killed it."""
        with contextlib.suppress(BlockingIOError, TimeoutError):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; the exit status. Raises TimeoutError."""
        if self.returncode is None:
            self.returncode = int(self._line(timeout))
            self._told.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _line(self, timeout: float | None) -> bytes:
        line = b""
        self._told.settimeout(timeout)
        while not line.endswith(b"\n"):
            part = self._told.recv(1)
            assert part, "the fork server has ended"
            line += part
        return line


def start(
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    program: str = FAREBOX,
    stdin: Output = subprocess.DEVNULL,
    stdout: Output = subprocess.DEVNULL,
    stderr: Output = subprocess.DEVNULL,
) -> Process:
    """Start `farebox`, or another program in Python, with these arguments. Only standard output may be a pipe."""
    with contextlib.ExitStack() as ours:
        told, telling = socket.socketpair()
        ours.callback(telling.close)
        reading = None
        if stdout == subprocess.PIPE:
            read, stdout = os.pipe()
            ours.callback(os.close, stdout)
            reading = os.fdopen(read, "rb")
        streams = [_descriptor(stream, ours) for stream in (stdin, stdout, stderr)]
        request = {"program": program, "arguments": list(arguments), "folder": os.getcwd(), "environment": dict(env)}
        socket.send_fds(_fork_server()[0], [json.dumps(request).encode()], [*streams, telling.fileno()])
    return Process(told, reading)


def start_fresh(
    arguments: Sequence[str], *, env: Mapping[str, str], stdout: Output, stderr: Output
) -> "subprocess.Popen[bytes]":
    """Start it like an operator does, for tests of the start itself."""
    command = [sys.executable, "-m", "farebox.cli.main", *arguments]
    return subprocess.Popen(command, env=env, stdout=stdout, stderr=stderr)


def run(
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    program: str = FAREBOX,
    input: str = "",
    timeout: float = SECONDS,
) -> "subprocess.CompletedProcess[str]":
    """Run it to its end."""
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        stdin.write(input.encode())
        stdin.seek(0)
        process = start(arguments, env=env, program=program, stdin=stdin, stdout=stdout, stderr=stderr)
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(
            ["farebox", *arguments], status, stdout.read().decode(), stderr.read().decode()
        )


def _descriptor(stream: Output, opened: contextlib.ExitStack) -> int:
    if stream == subprocess.DEVNULL:
        return opened.enter_context(open(os.devnull, "r+b", buffering=0)).fileno()
    return stream if isinstance(stream, int) else stream.fileno()


@functools.cache
def _fork_server() -> "tuple[socket.socket, subprocess.Popen[bytes]]":
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        command = [sys.executable, "-m", "tests.fork_server", str(its.fileno())]
        process = subprocess.Popen(command, cwd=ROOT, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL)
    return ours, process


def end_fork_server() -> None:
    """End it with the test process."""
    if _fork_server.cache_info().currsize:
        requests, process = _fork_server()
        requests.close()
        process.wait(SECONDS)
        _fork_server.cache_clear()
