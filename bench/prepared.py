"""The common set-up of every benchmark of a server, and its exit status if the set-up fails."""

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
    """Everything is stopped and removed at the end. The folder is created in `within` (None: the system's folder for
    temporary files). Raises NoCompiler, Broken."""
    programs = build()
    with (
        tempfile.TemporaryDirectory(prefix="farebox-bench-", dir=within) as folder,
        mock_upstream(programs["mock_upstream"]) as mock,
        started(engine) as database,
    ):
        yield Prepared(programs, Path(folder), mock, database)


def exit_status(measure: Callable[[], int]) -> int:
    """The result of `measure`; 1, with the reason on standard error, if something could not be built or started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # all started processes have been stopped
    try:
        return measure()
    except (Broken, NoCompiler) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
