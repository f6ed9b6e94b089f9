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

from farebox.memfile import MemoryFile
from farebox.offload.frames import receive, send

WALL_SECONDS: Final = 60.0
"""How long a helper may be silent: with its bound of processor time, only a machine without any takes so long."""
END_SECONDS: Final = 2.0
OVERRAN: Final = "processor time"


class HelperSilent(Exception):
    """The helper has ended, or does not answer."""

    def __init__(self, message: str, *, late: bool = False) -> None:
        super().__init__(message)
        self.late = late
        """It has not ended, but has had all the time there is."""


class HelperProcess:
    """Started by being made."""

    def __init__(self, memory: int, cpu_seconds: int) -> None:
        """Raises OSError."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._socket = ours
        command = [sys.executable, "-P", "-m", "farebox.offload.helper"]
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
        """See helper._answer. Raises HelperSilent: then it is to be ended."""
        try:
            async with asyncio.timeout(WALL_SECONDS):
                await send(self._socket, head, files)
                response = await receive(self._socket)
        except (EOFError, OSError) as error:
            raise HelperSilent(type(error).__name__, late=isinstance(error, TimeoutError)) from error
        found: tuple[str, Any, bool] = pickle.loads(response)  # noqa: S301 - from a process that we started
        return found

    def break_off(self) -> None:
        """End it at once, whatever it does; does not wait."""
        self._process.kill()

    def end(self) -> str:
        """Let it end, and see it end. Why it did, where that was the bound of its processor time: `processor time`;
        else what is known of it."""
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        status = self._process.returncode
        return OVERRAN if status == -signal.SIGPROF else f"exit status {status}"
