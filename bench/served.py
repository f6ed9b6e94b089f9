"""Starts and stops the programs under test: the mock provider, and a Farebox that is set up by its own command line in
a separate folder."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.engines import SQLITE, Engine
from farebox.model import Permission

CREDIT_USD = 1_000_000
PERMISSIONS = (Permission.RUN, Permission.READ, Permission.WRITE)
"""Calls need the first, reads of the control plane the second, and creating gateways the third."""
_NEVER_REACHED: dict[str, Any] = {"limit": CREDIT_USD, "limitType": "cost"}
GATEWAYS: dict[str, dict[str, Any]] = {
    "cached": {"cache_ttl": 24 * 3600},
    "ruled": {
        "spend_limits": {
            "enabled": True,
            "rules": [
                _NEVER_REACHED | {"window": 24 * 3600, "technique": "fixed"},
                _NEVER_REACHED | {"window": 3600, "token": {"mode": "partition"}},
                _NEVER_REACHED | {"window": 30 * 24 * 3600, "model": {"mode": "partition"}},
            ],
        }
    },
}
"""The differences from the default gateway. The windows of the rules slide, except for the first one's."""
START_SECONDS = 30.0
STOP_SECONDS = 20.0
_ROOT = Path(__file__).parent.parent


class Broken(RuntimeError):
    """Something did not start or stop; the message says what, and where to look."""


@dataclass(frozen=True, slots=True)
class Mock:
    pid: int
    port: int

    def get(self, path: str) -> dict[str, int]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response: dict[str, int] = json.loads(connection.getresponse().read())
            return response


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
    """One line per account: the path of its calls, and the header with its token."""
    engine: Engine = SQLITE

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def targets_of(self, gateway: str) -> Path:
        """The file of targets for another gateway of the accounts."""
        return self.targets if gateway == "default" else self.folder / f"targets-{gateway}"

    def make_gateway(self, name: str) -> None:
        """Create the gateway on each account, over HTTP. Raises Broken."""
        calls = self.targets.read_text()
        plain = {"cache_invalidate_on_update": False, "cache_ttl": 0, "collect_logs": True}
        limits = {"rate_limiting_interval": 0, "rate_limiting_limit": 0}
        body = json.dumps({"id": name, **plain, **limits, **GATEWAYS[name]})
        for line in calls.splitlines():
            path, header = line.split("\t")
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            with contextlib.closing(connection):
                url = f"/client/v4/accounts/{path.split('/')[2]}/ai-gateway/gateways"
                connection.request("POST", url, body, {"authorization": header.partition(": ")[2]})
                response = connection.getresponse()
                if response.status != 200:
                    raise Broken(f"the gateway {name!r} cannot be made: {response.read().decode()}")
        self.targets_of(name).write_text(calls.replace("/default/", f"/{name}/"))

    def money(self) -> tuple[int, int]:
        """The sums posted and held over all accounts, in nano-dollars, as another process reads them."""
        return self.engine.money(self.folder)

    def database_mb(self) -> float:
        return self.engine.size_mb(self.folder)

    def check(self) -> bool:
        """Whether `farebox check` finds the books clean."""
        environment = _environment(self.folder, self.engine)
        return subprocess.run([*_command(), "check"], env=environment, check=False).returncode == 0

    def lines_of_calls(self) -> int:
        """Canonical lines in the server's log: one per call."""
        with self.log.open("rb") as log:
            return sum(b'"event":"call"' in line for line in log)


@contextlib.contextmanager
def farebox(folder: Path, mock: Mock, *, engine: Engine = SQLITE) -> Iterator[Farebox]:
    """Set up a Farebox with one account, and serve until the block ends."""
    with serving(folder, set_up(folder, mock, engine), engine=engine) as served:
        yield served


@contextlib.contextmanager
def serving(
    folder: Path,
    targets: Path,
    *,
    engine: Engine = SQLITE,
    workers: int = 1,
    under: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
) -> Iterator[Farebox]:
    """Serve a folder that has been set up. `under`: a benchmark module that runs the command line, and its argument;
    `settings`: further environment variables."""
    port = _free_port()
    several = ["--workers", str(workers)] if workers > 1 else []
    command = [sys.executable, "-m", *under] if under else _command()
    with (folder / "server.log").open("wb") as log:
        own = {"FAREBOX_PORT": str(port), "FAREBOX_LOG_FORMAT": "json", "FAREBOX_LOG_LEVEL": "info"} | dict(
            settings or {}
        )
        environment = _environment(folder, engine, **own)
        process = subprocess.Popen([*command, "serve", *several], stdout=log, stderr=log, env=environment, cwd=_ROOT)
        served = Farebox(process.pid, port, folder, targets, engine)
        try:
            _await_response(process, served)
            yield served
        finally:
            _stop(process, served)


def set_up(folder: Path, mock: Mock, engine: Engine = SQLITE) -> Path:
    """Create a database with one account by the command line, like an operator; the targets of its calls."""

    def command(*words: str) -> dict[str, Any]:
        return run(folder, *words, engine=engine)

    command("init")
    command("provider", "set", "openai", "--base-url", f"http://127.0.0.1:{mock.port}/v1", "--api-key", "sk-bench")
    account = command("account", "create", "--name", "bench")["account_id"]
    permissions = [word for permission in PERMISSIONS for word in ("--permission", permission.value)]
    token = command("token", "create", "--account", account, *permissions)["token"]
    command("grant", "--account", account, "--amount", str(CREDIT_USD))
    return write_targets(folder / "targets", [(account, token)])


def write_targets(path: Path, accounts: Iterable[tuple[str, str]]) -> Path:
    """Write a file for the load client: calls of these accounts (ID, token) in turn."""
    line = "/v1/{}/default/openai/chat/completions\tauthorization: Bearer {}\n"
    path.write_text("".join(line.format(account, token) for account, token in accounts))
    return path


def _command() -> list[str]:
    return [str(Path(sys.executable).parent / "farebox")]


def _environment(folder: Path, engine: Engine, **settings: str) -> dict[str, str]:
    """This process's environment without the settings of another Farebox."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")}
    return {**kept, "FAREBOX_DATA_DIR": str(folder), **engine.environment(), **settings}


def run(folder: Path, *words: str, engine: Engine = SQLITE) -> dict[str, Any]:
    """Run a command and return its output. Raises Broken."""
    environment = _environment(folder, engine)
    done = subprocess.run([*_command(), *words, "--json"], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Broken(f"`farebox {' '.join(words[:2])}` failed: {done.stderr.strip()}")
    response: dict[str, Any] = json.loads(done.stdout)
    return response


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _await_response(process: subprocess.Popen[bytes], served: Farebox) -> None:
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
