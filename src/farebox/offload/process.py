"""One helper process as the gateway sees it. Its methods block: call them from threads."""

import contextlib
import pickle
import signal
import socket
import subprocess
import sys
from typing import Any, Final

from farebox.offload.frames import receive, send

WALL_SECONDS: Final = 60.0
"""How long a helper may be silent: with its bound of processor time, only a machine without any takes so long."""
END_SECONDS: Final = 2.0


class HelperDied(Exception):
    """The helper has ended, or does not answer."""


class HelperOverran(Exception):
    """The helper was ended because its work took too much of what the message names."""


class HelperProcess:
    """Started by being made."""

    def __init__(self, memory: int, cpu_seconds: int) -> None:
        """Raises OSError."""
        ours, theirs = socket.socketpair()
        ours.settimeout(WALL_SECONDS)
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

    def do(self, head: bytes, body: bytes) -> tuple[str, Any, bool]:
        """See helper._answer. Raises HelperOverran, HelperDied; then the helper has ended."""
        try:
            send(self._socket, head, body)
            answer, _ = receive(self._socket)
        except (EOFError, OSError) as error:
            self._socket.close()
            status = self._wait(END_SECONDS)
            if status == -signal.SIGPROF:
                raise HelperOverran("processor time") from error
            raise HelperDied(f"{type(error).__name__}, exit status {status}") from error
        found: tuple[str, Any, bool] = pickle.loads(answer)  # noqa: S301 - from a process that we started
        return found

    def break_off(self) -> None:
        """End it at once, whatever it does; does not wait."""
        self._process.kill()

    def end(self) -> None:
        """Let it end, and see it end."""
        self._socket.close()
        self._wait(END_SECONDS)

    def _wait(self, seconds: float) -> int:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        self._process.kill()
        return self._process.wait()
