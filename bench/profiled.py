"""`python -m bench.profiled FOLDER serve …`: runs `farebox` under cProfile, with separate profiles of the event loop
and the writer.

cProfile makes every function call slower, small functions most: its ranking is right, its times are not.
"""

import asyncio
import cProfile
import itertools
import pstats
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

ROWS = 60
WRITER = "farebox-writer"


CALLS_SKIPPED = 1000


def skip_the_start(profile: cProfile.Profile) -> None:
    """Profile from the thousandth call on."""
    from farebox.http.data_plane import DataPlane

    handle, calls = DataPlane.handle, itertools.count()

    def counted(self: DataPlane, exchange: Any) -> Any:
        if next(calls) == CALLS_SKIPPED:
            asyncio.get_running_loop().call_soon(profile.enable)
        return handle(self, exchange)

    DataPlane.handle = counted  # type: ignore[method-assign]


def main() -> None:
    folder = Path(sys.argv.pop(1))
    writer, loop = cProfile.Profile(), cProfile.Profile(time.thread_time)  # CPU time, regardless of other load

    def at_thread_start(_frame: FrameType, _event: str, _argument: Any) -> None:
        sys.setprofile(None)
        if threading.current_thread().name == WRITER:
            writer.enable()

    threading.setprofile(at_thread_start)
    from farebox.cli.main import run

    skip_the_start(loop)
    try:
        run()
    finally:
        loop.disable()
        for name, profile in (("loop", loop), ("writer", writer)):
            if not profile.getstats():
                continue
            with (folder / f"{name}.txt").open("w") as file:
                statistics = pstats.Stats(profile, stream=file)
                statistics.sort_stats("tottime").print_stats(ROWS)
                statistics.sort_stats("cumulative").print_stats(ROWS)


if __name__ == "__main__":
    main()
