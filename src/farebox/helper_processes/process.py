"""One helper process as the gateway sees it. Starting and ending one blocks: do that in threads."""

import asyncio
import contextlib
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

from farebox.helper_processes.frames import receive, send
from farebox.memory_files import MemoryFile

WALL_SECONDS: Final = 60.0
"""How long a helper may be silent: given its limit of processor time, this takes longer only on an overloaded
machine."""
END_SECONDS: Final = 2.0
OVERRAN: Final = "processor time"


class HelperSilent(Exception):
    """The helper has ended, or does not respond."""

    def __init__(self, message: str, *, late: bool = False) -> None:
        super().__init__(message)
        self.late = late
        """Whether it has not ended, but has used up its time."""


class HelperProcess:
    """A helper process; creating the object starts it."""

    def __init__(self, memory: int, cpu_seconds: int) -> None:
        """Start the process. Raises OSError."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._socket = ours
        command = [sys.executable, "-P", "-m", "farebox.helper_processes.helper"]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [*command, str(theirs.fileno()), str(memory), str(cpu_seconds)],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def do(self, head: bytes, files: Sequence[MemoryFile]) -> tuple[str, Any, bool]:
        """Have a piece of work done; see helper._respond. Raises HelperSilent; the helper must then be ended."""
        try:
            async with asyncio.timeout(WALL_SECONDS):
                await send(self._socket, head, files)
                response = await receive(self._socket)
        except (EOFError, OSError) as error:
            raise HelperSilent(type(error).__name__, late=isinstance(error, TimeoutError)) from error
        found: tuple[str, Any, bool] = pickle.loads(response)  # noqa: S301 - from a process that we started
        return found

    def break_off(self) -> None:
        """Kill it at once; does not wait."""
        self._process.kill()

    def end(self) -> str:
        """Let it end, and wait for that. Returns why it ended: `processor time` if it exceeded that limit, otherwise
        what is known."""
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        status = self._process.returncode
        return OVERRAN if status == -signal.SIGPROF else f"exit status {status}"
