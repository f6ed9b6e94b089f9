"""`python -m bench.bytecodes FOLDER serve …`: runs `farebox` and counts the bytecodes that its event loop executes per
request.

The counts of bytecodes and functions are the same in every run to within one percent, however busy the machine is, so
they show the effect of a change that is smaller than the variation of processor time. Functions that run on a schedule
(jobs, and the standard library beneath them) are left out. A traced server is forty times slower.
"""

import itertools
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

SKIPPED, COUNTED = 600, 400
"""Requests before counting starts, and requests counted: all of one kind, model calls or reads."""
BY_THE_CLOCK = (
    *("/asyncio/", "/concurrent/", "/contextlib.py", "/threading.py", "/queue.py", "/_weakrefset.py"),
    *("farebox/periodic_jobs.py", "farebox/jobs.py", "farebox/metrics/figures.py", "farebox/runtime/configuration.py"),
)
RARE = 0.05
"""Functions that run less than once in twenty requests are left out."""


class Counts:
    """Bytecodes by function, and how often each was entered or resumed."""

    def __init__(self) -> None:
        self.bytecodes: Counter[CodeType] = Counter()
        self.entries: Counter[CodeType] = Counter()

    def enter(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.entries[frame.f_code] += 1
        return self.step

    def step(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "opcode":
            self.bytecodes[frame.f_code] += 1
        return self.step

    def write(self, path: Path) -> None:
        """Write the bytecodes of one request and its functions, the most expensive first."""
        found = [
            (count / COUNTED, self.entries[code] / COUNTED, code)
            for code, count in self.bytecodes.most_common()
            if self.entries[code] / COUNTED >= RARE and not any(part in code.co_filename for part in BY_THE_CLOCK)
        ]
        lines = [f"{sum(each[0] for each in found):8.1f} {sum(each[1] for each in found):7.2f} one request"]
        lines += [
            f"{bytecodes:8.1f} {entries:7.2f} {code.co_filename}:{code.co_firstlineno} {code.co_qualname}"
            for bytecodes, entries, code in found
        ]
        path.write_text("\n".join(["bytecodes entries function", *lines, ""]))


def main() -> None:
    folder = Path(sys.argv.pop(1))
    from farebox.cli.main import run
    from farebox.http.application import Application

    handle, requests, counts = Application.__call__, itertools.count(), Counts()

    def counted(self: Application, exchange: Any) -> Any:
        number = next(requests)
        if number == SKIPPED:
            sys.settrace(counts.enter)
        elif number == SKIPPED + COUNTED:
            sys.settrace(None)
            counts.write(folder / "bytecodes.txt")
        return handle(self, exchange)

    Application.__call__ = counted  # type: ignore[method-assign]
    run()


if __name__ == "__main__":
    main()
