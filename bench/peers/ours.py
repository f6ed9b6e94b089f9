"""Farebox as one of the gateways: set up and served as bench.run does it, on SQLite and on PostgreSQL."""

import contextlib
import importlib.metadata
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.postgres.server import PostgresError

from bench.engines import EngineName, started
from bench.peers.peer import Peer, Served
from bench.served import Broken, Mock, farebox

NAME = "farebox"


def _install() -> None:
    """Nothing to install: this program is Farebox."""


def _version() -> str | None:
    return importlib.metadata.version(NAME)


@contextlib.contextmanager
def _serve(name: EngineName, folder: Path, mock: Mock) -> Iterator[Served]:
    with contextlib.ExitStack() as stack:
        try:
            engine = stack.enter_context(started(name))
        except PostgresError as error:
            raise Broken(f"PostgreSQL did not start: {error}") from error
        served = stack.enter_context(farebox(folder, mock, engine=engine))
        before, _ = served.money()
        yield Served(
            served.pid,
            served.port,
            targets=served.targets,
            apart={} if engine.postmaster is None else {"postgres": engine.postmaster},
            billed=lambda: before - served.money()[0],
        )
        if not served.check():
            raise Broken("the books are not clean")


PEER = Peer(NAME, "Farebox", "holds before", _install, _version, partial(_serve, "sqlite"))
ON_POSTGRES = Peer(
    f"{NAME}-postgres",
    "Farebox on PostgreSQL",
    "holds before",
    _install,
    _version,
    partial(_serve, "postgres"),
)
