"""Runs a client, and measures how long it prints nothing."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PATIENCE_SECONDS = 200.0
"""Seconds after which a client that is still running is killed."""
_LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Watched:
    out: str
    err: str
    silence: float
    """The longest time without output after the first call, in seconds."""
    in_time: bool
    status: int


def watch(
    command: Sequence[str | Path],
    folder: Path,
    asked: str,
    variables: Mapping[str, str],
    called: Callable[[], float | None],
) -> Watched:
    """Run the command to its end. `called` returns when its first call arrived."""
    files = {name: folder / f"std{name}.txt" for name in ("in", "out", "err")}
    files["in"].write_text(asked)
    with files["in"].open() as stdin, files["out"].open("w") as stdout, files["err"].open("w") as stderr:
        process = subprocess.Popen(
            command, cwd=folder, env=dict(variables), stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
        )
        began, printed, silence = time.monotonic(), 0, 0.0
        last = None
        while process.poll() is None and time.monotonic() < began + PATIENCE_SECONDS:
            time.sleep(_LOOK_SECONDS)
            now, size = time.monotonic(), sum(files[name].stat().st_size for name in ("out", "err"))
            last = called() if last is None else last
            if last is not None:
                silence = max(silence, now - last)
                if size > printed:
                    last = now
            printed = size
        in_time = process.poll() is not None
        with contextlib.suppress(ProcessLookupError):  # agents start other processes, which must not outlive them
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
    out, err = (files[name].read_text(errors="replace") for name in ("out", "err"))
    return Watched(out, err, silence, in_time, status)
