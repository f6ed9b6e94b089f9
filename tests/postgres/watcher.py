"""Ends a PostgreSQL server and removes its folder when its standard input closes.

`server.py` runs this file as a process of its own and holds the other end of the pipe. The system closes that end
however its holder dies, so a server never outlives the tests that started it. A parent death signal (prctl) would not
work: it is cleared when the user changes, and is sent when a thread ends. Standard library only: it starts quickly.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

PROGRAM_NAMES = ("postgres", "initdb", "pg_")
"""Names of PostgreSQL's programs, so that a developer's shell in the folder does not count."""

POLL_SECONDS = 0.005
WAIT_SECONDS = 5.0
"""Seconds for an orderly shutdown, which also frees the shared memory. Then the processes are killed."""


def processes_in(folder: Path) -> list[int]:
    """Process IDs, ascending, of PostgreSQL's programs whose working directory is the folder or below it. They never
    leave it, even if the postmaster dies. Zombies are not counted."""
    inside = f"{folder}/"
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            # Gone meanwhile, or of another user, so not ours.
            with contextlib.suppress(FileNotFoundError, PermissionError, ProcessLookupError):
                works_here = f"{os.readlink(f'/proc/{entry}/cwd')}/".startswith(inside)
                if works_here and Path(f"/proc/{entry}/comm").read_text().startswith(PROGRAM_NAMES):
                    found.append(int(entry))
    return sorted(found)


def send(pids: list[int], signal_number: signal.Signals) -> None:
    """Send a signal to those that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal_number)


def kill_all_in(folder: Path) -> None:
    """SIGKILL for all processes of a folder; returns when there are none."""
    killed: set[int] = set()
    while (pids := processes_in(folder)) or not all(map(is_gone, killed)):
        send(pids, signal.SIGKILL)
        killed.update(pids)
        time.sleep(POLL_SECONDS)


def is_gone(pid: int) -> bool:
    """Whether it has ended, possibly as a zombie. A process leaves its folder shortly before that."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def end_server_in(folder: Path) -> None:
    """PostgreSQL's immediate shutdown, which writes nothing; kills the processes if that takes too long."""
    with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
        postmaster = int((folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        # A killed server leaves its file behind, and the number may be another program's by now.
        send([pid for pid in processes_in(folder) if pid == postmaster], signal.SIGQUIT)
        deadline = time.monotonic() + WAIT_SECONDS
        while processes_in(folder) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    kill_all_in(folder)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end_server_in(Path(sys.argv[1]))
    shutil.rmtree(sys.argv[1], ignore_errors=True)
