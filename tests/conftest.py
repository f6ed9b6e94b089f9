import functools
import gc
import importlib
import inspect
import os
import sys
import tempfile
from collections.abc import Collection, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import hypothesis
import pytest
import trustme

from farebox.storage.sqlite.database import SqliteDatabase
from tests import engines
from tests.memory import memory_folder
from tests.postgres.server import PostgresServer
from tests.processes import end_fork_server
from tests.support import Customer, Farebox, quiet_logs, running_farebox
from tests.waiting import SECONDS
from tests.warm_helpers import end_warm_helpers

if TYPE_CHECKING:
    from tests.pages.sign_in_server import SignInServer


_HAVE_DATABASES = frozenset({"tmp_path", "tmp_path_factory", "postgres"})
"""A database belongs to a folder. A test that none of these fixtures leads to has no database, whatever the mark of its
module, and runs once; it fails if it opens one all the same (`engines.may_open`)."""


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "both_engines: runs on SQLite and on PostgreSQL; put on by tests.engines.ON_BOTH_ENGINES",
        "sqlite_only: is about SQLite itself, and runs on it whatever FAREBOX_TEST_ENGINE says",
    ):
        config.addinivalue_line("markers", line)
    # Containers often disable writing bytecode; each process that a test starts would then compile all of Farebox.
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if not hasattr(config, "workerinput"):  # inherited by workers and by servers that tests start
        _trust_nobody(config)
        _use_memory()
    _guard_databases()
    _share_contexts()
    _wait_for_busy_machines()
    hypothesis.settings.register_profile(
        "tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("tests")


def pytest_xdist_auto_num_workers() -> int:
    """Two workers for each processor, because tests spend much of their time waiting: for timeouts, disks and other
    processes."""
    return 2 * len(os.sched_getaffinity(0))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without the garbage collector, which would scan more and more tests and find no garbage: what there
    is stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000)  # as farebox.app does in a server
        gc.enable()


def _trust_nobody(config: pytest.Config) -> None:
    """Replace the system's more than hundred certificate authorities with one dummy: every new HTTP client loads them
    all, which takes 20 ms, and tests explicitly trust the certificates of their TLS servers."""
    folder = tempfile.TemporaryDirectory(prefix="farebox-trust-")
    config.add_cleanup(folder.cleanup)
    file = Path(folder.name) / "authority.pem"
    trustme.CA().cert_pem.write_to_path(str(file))
    os.environ["SSL_CERT_FILE"] = str(file)


def _share_contexts() -> None:
    """Share one TLS context among HTTP clients with the same trust: creating and freeing it is half of the processor
    time of a call such as `httpx.get`, which has no client of its own."""
    make = functools.cache(lambda verify, cert, trust_env, _environment: create_ssl_context(verify, cert, trust_env))
    create_ssl_context = httpx.create_ssl_context

    def shared(verify: Any = True, cert: Any = None, trust_env: bool = True) -> Any:
        return make(verify, cert, trust_env, (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")))

    transports: Any = importlib.import_module("httpx._transports.default")
    transports.create_ssl_context = shared


def _wait_for_busy_machines() -> None:
    """Give httpx a default timeout of minutes: its five seconds are too few on a busy machine."""
    stream = inspect.unwrap(httpx.stream)
    verbs = (httpx.request, httpx.get, httpx.head, httpx.options, httpx.delete, httpx.post, httpx.put, httpx.patch)
    functions: tuple[Any, ...] = (stream, *verbs, httpx.Client.__init__, httpx.AsyncClient.__init__)
    for function in functions:
        assert function.__kwdefaults__["timeout"] == httpx.Timeout(5.0)
        function.__kwdefaults__["timeout"] = httpx.Timeout(SECONDS)


def _use_memory() -> None:
    """Keep the tests' folders in memory if there is enough of it. SQLite syncs to disk at every commit, which takes
    half of the time of some tests and only protects against power cuts, which no test causes. A killed process loses
    nothing in either case."""
    if memory := memory_folder():
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))


def _has_database(fixtures: Collection[str]) -> bool:
    return not _HAVE_DATABASES.isdisjoint(fixtures)


def _guard_databases() -> None:
    """Let a test that seemed to have no database fail if it opens one all the same."""
    make = SqliteDatabase.__init__

    def guarded(self: SqliteDatabase, *arguments: Any, **named: Any) -> None:
        engines.may_open()
        make(self, *arguments, **named)

    SqliteDatabase.__init__ = guarded  # type: ignore[method-assign]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        chosen = engines.engines_of(metafunc.definition.get_closest_marker)
        if not _has_database(metafunc.fixturenames):
            chosen = chosen[:1]
        metafunc.parametrize("engine", chosen, indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture opens a database."""
    callspec = getattr(item, "callspec", None)
    engine = callspec.params.get("engine") if callspec else None
    marked = engines.engines_of(item.get_closest_marker)
    narrowed = len(marked) > 1 and not _has_database(getattr(item, "fixturenames", ()))
    engines.use_engine(engine or marked[0], databases=not narrowed)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """After the fixtures: drop the databases of the test's folder."""
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if folder is not None:
        engines.forget_databases(folder)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """After the fixtures. Not in `pytest_unconfigure`: pytest-xdist kills a worker that needs more than ten seconds
    there, and dropping the databases of a cluster can take longer."""
    engines.close_engines()
    end_warm_helpers()
    end_fork_server()


@pytest.fixture(scope="session", autouse=True)
def _quiet_logs() -> None:
    quiet_logs()


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> str:
    """The engine on which the test runs. A fixture that opens a database for several tests requests it, so that it is
    created again for the other engine."""
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="session")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """One server for all tests that need no settings of their own; each test creates its own account."""
    with running_farebox(tmp_path_factory.mktemp("farebox")) as served:
        yield served


@pytest.fixture(scope="session")
def sign_in_server(engine: str, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[SignInServer]":
    """The server with every way to sign in."""
    from tests.pages.sign_in_server import running_sign_in_server  # imported only if needed

    with running_sign_in_server(tmp_path_factory.mktemp("sign-in")) as opened:
        yield opened


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    """A new account with five dollars and a token."""
    return farebox.funded("5")


@pytest.fixture(scope="session")
def postgres() -> PostgresServer:
    """A PostgreSQL server for this test process, started when first needed."""
    return engines.postgres_server()


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """A new, empty database."""
    url = postgres.new_database()
    yield url
    postgres.drop_database(url)
