"""Several gateway processes on one PostgreSQL database, started and stopped like an operator does, and their
callers."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from farebox.clock import RandomIds, SystemClock
from farebox.ledger.audit import audit
from farebox.model import Permission
from farebox.money import parse_usd
from farebox.operator import administer, prices, tokens
from farebox.settings import Settings, load, secret_key
from farebox.storage.database import opened_for_command
from farebox.storage.sql import Connection
from farebox.vault import Vault
from tests import processes
from tests.calls.gate import MODEL, SLUG, Gate
from tests.calls.wire import COMPAT, Wire, WireResponse
from tests.engines import TESTER, looking
from tests.fork_server import WORKER, WORKER_NAME
from tests.processes import Process
from tests.support import Farebox
from tests.waiting import SECONDS, pauses

T = TypeVar("T")

WORKERS = 3
LOST_AFTER_MS = 1_500
"""FAREBOX_INSTANCE_TIMEOUT_MS of these servers."""


@dataclass(frozen=True, slots=True)
class Caller:
    """An account and one of its tokens."""

    account_id: str
    token: str
    token_id: str

    @property
    def headers(self) -> dict[str, str]:
        return {"content-type": "application/json", "authorization": f"Bearer {self.token}"}


@dataclass(slots=True)
class Installation:
    """A database, a data folder and a port; `serving` starts the processes."""

    folder: Path
    database_url: str
    port: int
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def settings(self) -> Settings:
        return load(self.environment, data_dir=str(self.folder), database_url=self.database_url)

    # The operator's actions.

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run the command line to its end."""
        return processes.run(self._whole(arguments), env=self._environment())

    def _whole(self, arguments: Sequence[str]) -> list[str]:
        return ["--data-dir", str(self.folder), *arguments]

    def _environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")}
        common = {
            "FAREBOX_DATABASE_URL": self.database_url,
            "FAREBOX_INSTANCE_TIMEOUT_MS": str(LOST_AFTER_MS),
            "FAREBOX_LOG_LEVEL": "warning",
        }
        return ours | common | self.environment

    def write(self, work: Callable[[Connection, RandomIds, Vault, int], T]) -> T:
        """Write to the database like a command."""

        def do() -> T:
            clock = SystemClock()
            settings = self.settings
            with opened_for_command(settings, writing=True) as connection:
                return work(connection, RandomIds(clock), Vault(secret_key(settings)), clock.now_ms())

        return _on_a_thread(do)

    def read(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """What is committed. Values are $1, $2…"""
        with looking(self.settings) as connection:
            return list(connection.execute(sql, values))

    def caller(self, *, usd: str = "5", nanos: int | None = None) -> Caller:
        """A new account with this much credit, and a token."""

        def make(connection: Connection, ids: RandomIds, vault: Vault, at: int) -> Caller:
            account = administer.create_account(connection, ids, by=TESTER, name="caller", at=at).account_id
            amount = parse_usd(usd) if nanos is None else nanos
            administer.grant(connection, ids, by=TESTER, account_id=account, amount=amount, at=at)
            made = tokens.create_token(connection, ids, vault, account_id=account, permissions=[*Permission], at=at)
            return Caller(account, made.secret, made.token.token_id)

        return self.write(make)

    def balance(self, caller: Caller) -> tuple[int, int]:
        """Posted and held."""
        [(posted, held)] = self.read("SELECT posted, held FROM balances WHERE account_id = $1", caller.account_id)
        return posted, held

    def differences(self) -> list[str]:
        """What `farebox check` finds."""

        def look() -> list[str]:
            with opened_for_command(self.settings) as connection:
                return [difference.message for difference in audit(connection)]

        return _on_a_thread(look)

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Lines of the servers' log with this event."""
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in found if line["event"] == event]

    # Serving.

    @contextlib.contextmanager
    def serving(self, *, workers: int = WORKERS, forked: bool = True) -> Iterator["Server"]:
        """Running server processes, which are killed at the end. `forked`: started by tests.processes, not like an
        operator does."""
        server = self.start(workers=workers, forked=forked)
        try:
            line = server.first_line()
            assert json.loads(line)["base_url"] == self.url
            yield server
        finally:
            server.kill_all()

    def start(self, *, workers: int = WORKERS, forked: bool = True) -> "Server":
        arguments = self._whole(
            ["serve", "--workers", str(workers), "--demo", "--json", "--port", str(self.port)],
        )
        begin = processes.start if forked else processes.start_fresh
        with self.log.open("ab") as log:
            return Server(self, begin(arguments, env=self._environment(), stdout=subprocess.PIPE, stderr=log))


class Server:
    """`farebox serve --workers N`, running."""

    def __init__(self, installation: Installation, process: "Process | subprocess.Popen[bytes]") -> None:
        self._installation = installation
        self._known: set[int] = set()
        self.process = process

    def first_line(self) -> bytes:
        """The first line of standard output, printed when all workers serve."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self._installation.log.read_text()[-3000:]
        return line

    @property
    def workers(self) -> list[int]:
        """The process IDs of the live workers."""
        found = children_of(self.process.pid)
        self._known.update(found)
        return found

    def stop(self) -> int:
        """Stop by SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)

    def kill_all(self) -> None:
        orphans = [pid for pid in self._known.union(self.workers) if is_worker(pid)]
        for pid in [self.process.pid, *orphans]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGKILL)
        self.process.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()


def children_of(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for child in text.split() if is_alive(int(child))]


def is_worker(pid: int) -> bool:
    """Whether the process runs and is ours, not another one with the same ID."""
    try:
        process = Path(f"/proc/{pid}")
        return WORKER.encode() in (process / "cmdline").read_bytes() or WORKER_NAME in (process / "comm").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_alive(pid: int) -> bool:
    """Whether the process runs: neither gone nor a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _on_a_thread(work: Callable[[], T]) -> T:
    """Tests run in a loop; code that runs its own loop needs a thread without one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


# Calling.


async def start(
    installation: Installation, caller: Caller, body: bytes, *, demo: str = "", gateway: str = "default"
) -> Wire:
    """Send a call on a new connection, which any process may accept; do not wait for its response."""
    wire = await Wire.open(installation.url)
    await send(wire, caller, body, demo=demo, gateway=gateway)
    return wire


async def send(wire: Wire, caller: Caller, body: bytes, *, demo: str = "", gateway: str = "default") -> None:
    headers = caller.headers | ({"x-demo": demo} if demo else {})
    await wire.send(f"/v1/{caller.account_id}/{gateway}/{COMPAT}", headers, body)


async def call(
    installation: Installation, caller: Caller, body: bytes, *, demo: str = "", gateway: str = "default"
) -> WireResponse:
    wire = await start(installation, caller, body, demo=demo, gateway=gateway)
    return await asyncio.wait_for(wire.response(), SECONDS)


async def calls(installation: Installation, caller: Caller, body: bytes, count: int, **more: str) -> list[WireResponse]:
    """This many concurrent calls."""
    return list(await asyncio.gather(*(call(installation, caller, body, **more) for _ in range(count))))


async def eventually(true: Callable[[], object], what: str) -> None:
    """Wait until a condition holds; it runs on a thread because it may query the database."""
    for pause in pauses(what):
        if await asyncio.to_thread(true):
            return
        await asyncio.sleep(pause)


# A provider that answers on the test's command.


class LoopThread:
    """A loop on a separate thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout: float = SECONDS) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextlib.contextmanager
def gated(installation: Installation) -> Iterator[Gate]:
    """A shut tests.calls.gate, outside of the server's processes, as the provider SLUG with a price for MODEL."""
    background = LoopThread()
    gate = Gate(cast(Farebox, background))  # Gate only uses its method `run`
    try:
        installation.write(partial(_set_provider, url=gate.url))
        yield gate
    finally:
        gate.close()
        background.close()


def _set_provider(connection: Connection, ids: RandomIds, vault: Vault, at: int, *, url: str) -> None:
    administer.set_provider(connection, vault, by=TESTER, name=SLUG, at=at, base_url=url, api_key="key-of-the-gate")
    prices.set_price(
        connection,
        ids,
        by=TESTER,
        provider=SLUG,
        model=MODEL,
        rates={"input_mtok": "1", "output_mtok": "2"},
        output_max=4096,
        at=at - 1000,
    )
