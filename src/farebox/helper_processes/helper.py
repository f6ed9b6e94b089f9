"""A helper process: takes one piece of work after another from its socket, until the gateway is gone.

    python -m farebox.helper_processes.helper SOCKET MEMORY_BYTES CPU_SECONDS

It yields to the gateway (nice), is the first to be killed when the machine runs out of memory, and ends itself if a
piece of work takes more memory or CPU time than allowed.
"""

import contextlib
import os
import pickle
import resource
import signal
import socket
import sys
import traceback
from typing import Final

from farebox.helper_processes.frames import await_work, send_response
from farebox.memory_files import MemoryFile, joined

NICE: Final = 15
SPENT_BYTES: Final = 256 * 2**20
"""A helper that remains larger is not used again: memory that was allocated in small pieces is not always returned."""


def main() -> None:
    """Work until the other side of the socket is closed."""
    descriptor, memory, seconds = map(int, sys.argv[1:4])
    _lower_priority(memory)
    with socket.socket(fileno=descriptor) as sock, contextlib.suppress(EOFError, ConnectionError):
        while True:
            head, files = await_work(sock)
            signal.setitimer(signal.ITIMER_PROF, seconds)  # without a handler, its signal ends the process
            found = _respond(head, [MemoryFile.of(fd) for fd in files])
            del head, files
            signal.setitimer(signal.ITIMER_PROF, 0)
            send_response(sock, found)
            if _spent():
                return


def _lower_priority(memory: int) -> None:
    # These are sent to all processes of a service: the gateway ends its helpers itself.
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(NICE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")


def _respond(head: bytes, files: list[MemoryFile]) -> bytes:
    """The outcome of the work, pickled: how it ended ("done", "raised", "failed", "memory"), the result or the
    exception, and whether this helper must not be used again."""
    try:
        function, raises, arguments, pieces = pickle.loads(head)  # noqa: S301 - from the gateway
        body = joined(files.pop(0), pieces)
        try:
            value = function(body, *arguments, *files)
        except raises as error:  # not kept in a variable: it refers to this frame, and so to the body and the files
            return pickle.dumps(("raised", error, _spent()), pickle.HIGHEST_PROTOCOL)
        return pickle.dumps(("done", value, _spent()), pickle.HIGHEST_PROTOCOL)
    except MemoryError:
        return pickle.dumps(("memory", None, True))
    except Exception:  # noqa: BLE001 - the gateway logs it
        return pickle.dumps(("failed", traceback.format_exc(limit=-5), True))


def _spent() -> bool:
    """Whether this process has become large. Its peak size cannot be used, because it includes that of the gateway, of
    which this process was a copy before it executed its own program."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize() > SPENT_BYTES
    except OSError:
        return False


if __name__ == "__main__":
    main()
