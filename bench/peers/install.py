"""Installs peers from the package registries: a virtual environment or a `node_modules` in a folder of its own.

Nothing of a package runs while it is installed: wheels only, and npm without scripts. A folder counts as installed if
its stamp contains the current pins.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.peers.peer import PEERS, interpreter
from bench.served import Broken

STAMP = "installed"


def python_packages(name: str, pins: Sequence[str]) -> None:
    """`bench/.peers/NAME/venv` with these packages. Bytecode is compiled now because the peer may not write it
    later."""
    folder = _emptied(name)
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        raise Broken("uv is missing: `.venv/bin/python -m pip install uv`")
    _run(uv, "venv", "--quiet", "--python", interpreter(), str(folder / "venv"))
    python = str(folder / "venv" / "bin" / "python")
    _run(uv, "pip", "install", "--quiet", "--compile-bytecode", "--only-binary", ":all:", "--python", python, *pins)


def node_packages(name: str, pins: Mapping[str, str], overrides: Mapping[str, str] | None = None) -> None:
    """`bench/.peers/NAME/node_modules` with these packages; `overrides` apply to their dependencies."""
    folder = _emptied(name)
    if shutil.which("npm") is None:
        raise Broken("npm is missing: install Node.js")
    package = {"private": True, "dependencies": pins, "overrides": overrides or {}}
    (folder / "package.json").write_text(json.dumps(package, indent=1))
    _run("npm", "install", "--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund", "--silent", at=folder)


def stamp(name: str, pins: Sequence[str]) -> None:
    (PEERS / name / STAMP).write_text("\n".join(pins))


def is_installed(name: str, pins: Sequence[str]) -> bool:
    file = PEERS / name / STAMP
    return file.exists() and file.read_text() == "\n".join(pins)


def _emptied(name: str) -> Path:
    folder = PEERS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _run(*command: str, at: Path = PEERS) -> None:
    subprocess.run(command, cwd=at, check=True, capture_output=True, text=True)
