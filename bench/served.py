"""What is measured, started and stopped: the mock provider, and a Farebox of the bench's own, set up by its own
command line in a folder of its own."""

import contextlib
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farebox.clock import RandomIds, SystemClock
from farebox.model import Permission
from farebox.settings import load, secret_key
from farebox.storage.sqlite import open_file
from farebox.usecases import administer
from farebox.vault import Vault

CREDIT_USD = 1_000_000
PERMISSIONS = (Permission.RUN, Permission.READ)
"""Calls need the first, the reads of the control plane the second."""
START_SECONDS = 30.0
STOP_SECONDS = 20.0
_ROOT = Path(__file__).parent.parent


class Broken(RuntimeError):
    """Something did not start, or not stop; the message says what, and where to look."""


@dataclass(frozen=True, slots=True)
class Mock:
    pid: int
    port: int

    def get(self, path: str) -> dict[str, int]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer: dict[str, int] = json.loads(connection.getresponse().read())
            return answer


@contextlib.contextmanager
def mock_upstream(program: Path) -> Iterator[Mock]:
    process = subprocess.Popen([program, "0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise Broken("the mock provider did not start")
        yield Mock(process.pid, json.loads(line)["port"])
    finally:
        process.terminate()
        process.wait()


@dataclass(frozen=True, slots=True)
class Farebox:
    """A served Farebox with accounts that have credit."""

    pid: int
    port: int
    folder: Path
    targets: Path
    """One line an account: the path of its calls, and the header with its token."""

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def money(self) -> tuple[int, int]:
        """Posted and held of all accounts together, in nano-dollars, as another process reads them."""
        database = f"file:{self.folder / 'farebox.db'}?mode=ro"
        with contextlib.closing(sqlite3.connect(database, uri=True, timeout=30)) as connection:
            posted, held = connection.execute("SELECT sum(posted), sum(held) FROM balances").fetchone()
        return posted, held

    def database_mb(self) -> float:
        return round(sum(file.stat().st_size for file in self.folder.glob("farebox.db*")) / 2**20, 1)

    def check(self) -> bool:
        """Whether `farebox check` finds the books clean."""
        return subprocess.run([*_command(), "check"], env=_environment(self.folder), check=False).returncode == 0

    def lines_of_calls(self) -> int:
        """Canonical lines in the server's log: one a call."""
        with self.log.open("rb") as log:
            return sum(b'"event":"call"' in line for line in log)


@contextlib.contextmanager
def farebox(folder: Path, mock: Mock, *, accounts: int, profile: Path | None = None) -> Iterator[Farebox]:
    """Set up and serve until the block ends. With `profile`, under bench.profiled, whose tables go there."""
    under = () if profile is None else ("bench.profiled", str(profile))
    with serving(folder, set_up(folder, mock, accounts), under=under) as served:
        yield served


@contextlib.contextmanager
def serving(folder: Path, targets: Path, *, under: Sequence[str] = ()) -> Iterator[Farebox]:
    """Serve a folder that is set up. `under`: a module of the bench that runs the command line, and its argument."""
    port = _free_port()
    command = [sys.executable, "-m", *under] if under else _command()
    with (folder / "server.log").open("wb") as log:
        environment = _environment(folder, FAREBOX_PORT=str(port), FAREBOX_LOG_FORMAT="json", FAREBOX_LOG_LEVEL="info")
        process = subprocess.Popen([*command, "serve"], stdout=log, stderr=log, env=environment, cwd=_ROOT)
        served = Farebox(process.pid, port, folder, targets)
        try:
            _await_answer(process, served)
            yield served
        finally:
            _stop(process, served)


def set_up(folder: Path, mock: Mock, accounts: int) -> Path:
    """One account by the command line, as an operator makes it; further ones in one transaction, being many."""
    run(folder, "init")
    run(folder, "provider", "set", "openai", "--base-url", f"http://127.0.0.1:{mock.port}/v1", "--api-key", "sk-bench")
    account = run(folder, "account", "create", "--name", "bench")["account_id"]
    permissions = [word for permission in PERMISSIONS for word in ("--permission", permission.value)]
    token = run(folder, "token", "create", "--account", account, *permissions)["token"]
    run(folder, "grant", "--account", account, "--amount", str(CREDIT_USD))
    made = [(account, token), *_more_accounts(folder, accounts - 1)]
    targets = folder / "targets"
    lines = [
        f"/v1/{account}/default/openai/chat/completions\tauthorization: Bearer {token}\n" for account, token in made
    ]
    targets.write_text("".join(lines))
    return targets


def _more_accounts(folder: Path, count: int) -> list[tuple[str, str]]:
    if not count:
        return []
    clock = SystemClock()
    ids, at = RandomIds(clock), clock.now_ms()
    settings = load({}, data_dir=str(folder))
    vault = Vault(secret_key(settings))
    made = []
    with contextlib.closing(open_file(settings.database_path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for number in range(count):
            account = administer.create_account(connection, ids, name=f"bench {number}", at=at).account_id
            token = administer.create_token(connection, ids, vault, account_id=account, permissions=PERMISSIONS, at=at)
            administer.grant(connection, ids, account_id=account, amount=CREDIT_USD * 10**9, at=at)
            made.append((account, token.secret))
        connection.execute("COMMIT")
    return made


def _command() -> list[str]:
    return [str(Path(sys.executable).parent / "farebox")]


def _environment(folder: Path, **settings: str) -> dict[str, str]:
    """This process's own, without what it says about another Farebox."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")}
    return {**kept, "FAREBOX_DATA_DIR": str(folder), **settings}


def run(folder: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [*_command(), *words, "--json"], env=_environment(folder), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Broken(f"`farebox {' '.join(words[:2])}` failed: {done.stderr.strip()}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _await_answer(process: subprocess.Popen[bytes], served: Farebox) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", served.port)):
            return
        time.sleep(0.05)
    raise Broken(f"the server did not start: {served.log.read_text()[-2000:]}")


def _stop(process: subprocess.Popen[bytes], served: Farebox) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        status = process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise Broken(f"the server did not stop within {STOP_SECONDS:g} s: {served.log.read_text()[-2000:]}") from None
    if status:
        raise Broken(f"the server ended with {status}: {served.log.read_text()[-2000:]}")
