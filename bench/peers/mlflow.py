"""MLflow's AI gateway, as `mlflow gateway start` serves it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bench.peers import install
from bench.peers.peer import PEERS, Peer, Served, await_health, free_port, running
from bench.served import Mock

NAME = "mlflow"
VERSION = "3.17.2"
PINS = (f"mlflow[gateway]=={VERSION}",)

CONFIGURATION = """
endpoints:
  - name: chat
    endpoint_type: llm/v1/chat
    model:
      provider: openai
      name: gpt-4o-mini
      config:
        openai_api_key: sk-bench
        openai_api_base: http://127.0.0.1:{provider}/v1
"""


def _install() -> None:
    install.python_packages(NAME, PINS)
    install.stamp(NAME, PINS)


def _version() -> str | None:
    return VERSION if install.is_installed(NAME, PINS) else None


@contextlib.contextmanager
def _serve(folder: Path, mock: Mock) -> Iterator[Served]:
    port = free_port()
    file = folder / "mlflow.yaml"
    file.write_text(CONFIGURATION.format(provider=mock.port))
    command: list[str | Path] = [PEERS / NAME / "venv" / "bin" / "mlflow", "gateway", "start", "--config-path", file]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with running(command, folder) as process:
        served = Served(process.pid, port, path="/gateway/chat/invocations", model=None, says_done=False)
        await_health(process, served, folder, "/health")
        yield served


PEER = Peer(NAME, "MLflow's AI gateway (Python)", "nothing", _install, _version, _serve)
