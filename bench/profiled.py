"""`python -m bench.profiled FOLDER serve …`: the command line under cProfile, the event loop and the writer apart.

cProfile makes every call dearer, small functions most: what it ranks is right in order, not in size.
"""

import cProfile
import pstats
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

ROWS = 60
WRITER = "farebox-writer"


def main() -> None:
    folder = Path(sys.argv.pop(1))
    writer, loop = cProfile.Profile(), cProfile.Profile()

    def at_thread_start(_frame: FrameType, _event: str, _argument: Any) -> None:
        sys.setprofile(None)
        if threading.current_thread().name == WRITER:
            writer.enable()

    threading.setprofile(at_thread_start)
    from farebox.cli.main import run

    loop.enable()
    try:
        run()
    finally:
        loop.disable()
        for name, profile in (("loop", loop), ("writer", writer)):
            with (folder / f"{name}.txt").open("w") as file:
                statistics = pstats.Stats(profile, stream=file)
                statistics.sort_stats("tottime").print_stats(ROWS)
                statistics.sort_stats("cumulative").print_stats(ROWS)


if __name__ == "__main__":
    main()
