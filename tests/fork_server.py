"""The process from which `tests.processes` forks Farebox processes: `python -m tests.fork_server DESCRIPTOR`.

A Farebox process spends most of its start, two thirds of a second of processor time, on loading modules. This process
has loaded them; it forks for each start, and the fork becomes the requested process. A request is a JSON object on the
socket DESCRIPTOR, with four descriptors: standard input, output and error, and a socket for the response, which is the
process ID and later the exit status.
"""

import asyncio
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

REQUEST_BYTES = 2**20
MODULES = (
    "farebox.app", "farebox.cli.main", "farebox.cli.server_file", "farebox.cli.welcome", "farebox.cli.worker",
    "farebox.cli.workers", "farebox.demo_provider.provider", "farebox.ledger.batches", "farebox.operator.checking",
    "farebox.payments.stripe", "farebox.storage.postgres.database", "farebox.storage.sqlite.database", "fake_stripe",
    "anyio._backends._asyncio", "httpcore", "rich.progress", "rich.table", "stripe._stripe_client",
    "stripe._v1_services", "stripe._webhook", "uvloop",
)  # fmt: skip
WORKER = "farebox.cli.worker"
WORKER_NAME = "farebox-worker"
"""The system's name of a forked worker, whose command line is that of this process."""


def main() -> None:
    """Serve requests until the other end of the socket is closed; in a fork, become `farebox`."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    _load()
    start = _serve(requests)
    if start is not None:
        asyncio.create_subprocess_exec = _fork_worker  # type: ignore[assignment]
        sys.argv = ["farebox", *start["arguments"]]
        exec(start["program"], {"__name__": "__main__"})


def _load() -> None:
    """Load the modules that `farebox serve --demo`, its workers and `farebox check` use, most of which are loaded
    lazily."""
    from farebox import lean_imports
    from farebox.cli.main import command

    lean_imports.load_for_server()

    for name in MODULES:
        importlib.import_module(name)
    command()

    gc.collect()
    gc.freeze()


def _serve(requests: socket.socket) -> dict[str, Any] | None:
    """Answer requests. Returns in a fork, with its request, and in this process, with None, when there are no more."""
    awake, waking = os.pipe()
    os.set_blocking(waking, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    alive: dict[int, socket.socket] = {}
    while True:
        readable, _, _ = select.select([requests.fileno(), awake], [], [])
        if awake in readable:
            os.read(awake, 4096)
            _tell_ends(alive)
        if requests.fileno() in readable:
            request, descriptors, _, _ = socket.recv_fds(requests, REQUEST_BYTES, 4)
            if not request:
                return None
            start: dict[str, Any] = json.loads(request)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                for inherited in (requests, *alive.values()):
                    inherited.detach()
                _become(start, descriptors)
                return start
            for descriptor in descriptors[:3]:
                os.close(descriptor)
            alive[pid] = told = socket.socket(fileno=descriptors[3])
            told.sendall(f"{pid}\n".encode())


def _tell_ends(alive: dict[int, socket.socket]) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with alive.pop(pid) as told, contextlib.suppress(OSError):
                told.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _become(start: dict[str, Any], descriptors: list[int]) -> None:
    """In a fork: take over arguments, environment and descriptors, like a new process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    os.closerange(3, 1024)
    os.chdir(start["folder"])
    os.environ.clear()
    os.environ.update(start["environment"])


# Workers.


async def _fork_worker(*command: Any, pass_fds: list[int], **_: Any) -> "_Worker":
    """Stands in for `asyncio.create_subprocess_exec` in `farebox serve --workers N`: starts a worker as a fork."""
    assert command[-1] == WORKER, command
    read_input, write_input = os.pipe()
    read_output, write_output = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _be_worker(read_input, write_output, set(pass_fds))
    os.close(read_input)
    os.close(write_output)
    return await _Worker.of(pid, write_input, read_output)


def _be_worker(standard_input: int, standard_output: int, kept: set[int]) -> None:
    """In the fork, inside the running loop of the parent: run a new loop on top of it, until the end."""
    status = 1
    try:
        gc.freeze()  # objects of the parent are never freed, and so never closed
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        os.dup2(standard_input, 0)
        os.dup2(standard_output, 1)
        for descriptor in {int(name) for name in os.listdir("/proc/self/fd")} - kept - {0, 1, 2}:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        Path("/proc/self/comm").write_text(WORKER_NAME)
        from farebox.cli.worker import main as worker

        worker()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        os._exit(status)


class _Worker:
    """The part of `asyncio.subprocess.Process` that farebox.cli.workers uses."""

    def __init__(self, pid: int, standard_input: int, stdout: asyncio.StreamReader) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdin = os.fdopen(standard_input, "wb", buffering=0)
        self.stdout = stdout
        self._ended = asyncio.Event()
        self._end = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._end, self._reap)

    @classmethod
    async def of(cls, pid: int, standard_input: int, standard_output: int) -> "_Worker":
        stdout = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(stdout)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(standard_output, "rb"))
        return cls(pid, standard_input, stdout)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._end)
        os.close(self._end)
        _, status = os.waitpid(self.pid, 0)
        self.returncode = os.waitstatus_to_exitcode(status)
        self.stdin.close()
        self._ended.set()

    async def wait(self) -> int | None:
        await self._ended.wait()
        return self.returncode

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
