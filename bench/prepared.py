"""What every benchmark of a server begins with, and how it ends where that is not to be had."""

import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.build import NoCompiler, build
from bench.engines import Engine, EngineName, started
from bench.served import Broken, Mock, mock_upstream


class Prepared(NamedTuple):
    """The compiled programs by name, an empty folder, the mock provider, and the database."""

    programs: dict[str, Path]
    folder: Path
    mock: Mock
    engine: Engine


@contextmanager
def prepared(engine: EngineName, within: Path | None) -> Iterator[Prepared]:
    """All of it is stopped and removed at the end. The folder is made `within` another (None: the system's for
    temporary ones). Raises NoCompiler, Broken."""
    programs = build()
    with (
        tempfile.TemporaryDirectory(prefix="farebox-bench-", dir=within) as folder,
        mock_upstream(programs["mock_upstream"]) as mock,
        started(engine) as database,
    ):
        yield Prepared(programs, Path(folder), mock, database)


def exit_status(measure: Callable[[], int]) -> int:
    """What `measure` returns; 1, and the reason on standard error, where something could not be built or started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is stopped
    try:
        return measure()
    except (Broken, NoCompiler) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
