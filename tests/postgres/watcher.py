"""Ends a PostgreSQL server and removes its folder when its standard input closes.

`server.py` runs this file as a process of its own and holds the other end of the pipe. The system closes that end
however its holder dies, so a server never outlives the tests that started it. A death signal (prctl) would not do: the
system forgets it when the user changes, and it goes off when a thread ends. Standard library only: it starts quickly.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

PROGRAM_NAMES = ("postgres", "initdb", "pg_")
"""A developer's shell that looks around in the folder is none of ours."""

POLL_SECONDS = 0.005
WAIT_SECONDS = 5.0
"""For an orderly end, which also gives back the shared memory. Then the processes are killed."""


def processes_in(folder: Path) -> list[int]:
    """Process ids, ascending, of PostgreSQL's programs that work in a folder or below it. They never leave it, also not
    when the postmaster dies and they lose their parent. Zombies are not counted."""
    inside = f"{folder}/"
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            # Gone meanwhile, or of another user: none of ours.
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
    """Whether it has ended: it may be a zombie. A process gives up its folder a moment before."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def end_server_in(folder: Path) -> None:
    """PostgreSQL's immediate shutdown, which writes nothing; killed where that takes too long."""
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
