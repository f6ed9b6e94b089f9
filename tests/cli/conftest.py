"""How the tests run the command line: in this process for speed, in a separate one if that matters."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from farebox.cli.main import run
from tests.engines import database_url
from tests.support import quiet_logs


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


Cli = Callable[..., Result]


def commands_use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the commands to this data folder and its database, with no other setting; the folder."""
    for name in list(os.environ):
        if name.startswith("FAREBOX_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FAREBOX_DATA_DIR", str(folder))
    if url := database_url(folder):
        monkeypatch.setenv("FAREBOX_DATABASE_URL", url)
    return folder


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder that does not exist yet; no other setting is set."""
    return commands_use(tmp_path / "data", monkeypatch)


@pytest.fixture
def cli(data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """Runs `farebox` with these arguments in this process."""

    def call(*arguments: str, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "argv", ["farebox", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run()
        captured = capsys.readouterr()
        return Result(int(ended.value.code or 0), captured.out, captured.err)

    yield call
    quiet_logs()  # `serve` configured logging for a stream of this test, which closes now


@pytest.fixture
def process(data_dir: Path) -> Cli:
    """Runs `farebox` with these arguments in a separate process."""

    def call(*arguments: str, stdin: str = "") -> Result:
        ended = subprocess.run(
            [sys.executable, "-m", "farebox.cli.main", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Result(ended.returncode, ended.stdout, ended.stderr)

    return call


@pytest.fixture
def acme(cli: Cli) -> str:
    """An account."""
    account_id: str = cli("account", "create", "--name", "Acme", "--id", "acme", "--json").json["account_id"]
    return account_id
