"""Compiles the benchmarks' C programs into bench/bin if their source is newer."""

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
PROGRAMS = ("mock_upstream", "load")


class NoCompiler(RuntimeError):
    """There is no C compiler; the message says how to get one."""


def build() -> dict[str, Path]:
    """Compile what is out of date; return the programs by name. Raises NoCompiler, or CalledProcessError if
    compiling fails."""
    built = {}
    for name in PROGRAMS:
        source, program = HERE / f"{name}.c", HERE / "bin" / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            _compile(source, program)
        built[name] = program
    return built


def _compile(source: Path, program: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise NoCompiler("the bench needs a C compiler and finds neither gcc nor cc: on Debian, `apt-get install gcc`")
    program.parent.mkdir(exist_ok=True)
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", str(program), str(source)], check=True)
