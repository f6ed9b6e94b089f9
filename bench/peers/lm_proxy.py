"""lm-proxy: a small gateway in Python. It compares the caller's key with its configuration."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bench.peers import install
from bench.peers.peer import PEERS, Peer, Served, await_health, free_port, running
from bench.served import Mock

NAME = "lm-proxy"
VERSION = "3.3.2"
PINS = (f"lm-proxy=={VERSION}",)

CONFIGURATION = """
host = "127.0.0.1"
port = {port}

[connections.provider]
api_type = "openai"
api_base = "http://127.0.0.1:{provider}/v1/"
api_key = "sk-bench"

[routing]
"*" = "provider.*"

[groups.default]
api_keys = ["bench"]
"""


def _install() -> None:
    install.python_packages(NAME, PINS)
    install.stamp(NAME, PINS)


def _version() -> str | None:
    return VERSION if install.is_installed(NAME, PINS) else None


@contextlib.contextmanager
def _serve(folder: Path, mock: Mock) -> Iterator[Served]:
    port = free_port()
    file = folder / "lm-proxy.toml"
    file.write_text(CONFIGURATION.format(port=port, provider=mock.port))
    with running([PEERS / NAME / "venv" / "bin" / "lm-proxy", "--config", file], folder) as process:
        served = Served(process.pid, port, headers=("authorization: Bearer bench",))
        await_health(process, served, folder, "/health")
        yield served


PEER = Peer(NAME, "lm-proxy (Python)", "nothing", _install, _version, _serve)
