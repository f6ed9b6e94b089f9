"""TensorZero: a gateway in Rust, packaged in its Python wheel. Its database is off, so it keeps no record."""

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.peers import install
from bench.peers.peer import PEERS, START_SECONDS, Peer, Served, await_health, last_line, log_of, running
from bench.served import Broken, Mock

NAME = "tensorzero"
VERSION = "2026.6.0"
PINS = (f"tensorzero=={VERSION}",)

CONFIGURATION = """
[gateway]
observability.enabled = false

[models."gpt-4o-mini"]
routing = ["provider"]

[models."gpt-4o-mini".providers.provider]
type = "openai"
model_name = "gpt-4o-mini"
api_base = "http://127.0.0.1:{provider}/v1/"
api_key_location = "none"
"""

# The wheel starts the gateway within a Python process, which is then idle, on a port that the gateway chooses.
PROGRAM = """
import signal, sys, tensorzero
gateway = tensorzero._start_http_gateway(
    config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False
)
print("BASE", gateway.base_url, flush=True)
signal.pause()
"""


def _install() -> None:
    install.python_packages(NAME, PINS)
    install.stamp(NAME, PINS)


def _version() -> str | None:
    return VERSION if install.is_installed(NAME, PINS) else None


@contextlib.contextmanager
def _serve(folder: Path, mock: Mock) -> Iterator[Served]:
    file = folder / "tensorzero.toml"
    file.write_text(CONFIGURATION.format(provider=mock.port))
    with running([PEERS / NAME / "venv" / "bin" / "python", "-c", PROGRAM, file], folder) as process:
        model = "tensorzero::model_name::gpt-4o-mini"
        served = Served(process.pid, _port(process, folder), path="/openai/v1/chat/completions", model=model)
        await_health(process, served, folder, "/health")
        yield served


def _port(process: subprocess.Popen[bytes], folder: Path) -> int:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if found := re.search(r"^BASE http://127\.0\.0\.1:(\d+)/", log_of(folder), re.MULTILINE):
            return int(found[1])
        if process.poll() is not None:
            raise Broken(f"it ended with {process.returncode}: {last_line(log_of(folder))}")
        time.sleep(0.1)
    raise Broken(f"it did not listen within {START_SECONDS:g} s: {last_line(log_of(folder))}")


PEER = Peer(NAME, "TensorZero (Rust), without its database", "nothing", _install, _version, _serve)
