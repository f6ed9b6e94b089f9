"""The house rules that no linter knows."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.repo.reference import ROOT

FUNCTION_LINES = 66
MODULE_LINES = 400
FAREBOX = sorted((ROOT / "src").rglob("*.py"))
SOURCES = [*FAREBOX, *sorted((ROOT / "packages").glob("*/src/**/*.py"))]

BANNED = {
    "a path of somebody's machine": r"(?<![\w.])/(work|root|home|Users|opt)/\w",
    "a package registry": r"pypi\.org/simple|registry\.npmjs|index-url|file:///",
    "unfinished work": r"\b(TO" r"DO|FIX" r"ME|X" r"XX|HA" r"CK)\b",
}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _texts() -> Iterator[tuple[Path, str]]:
    """Every file that is or would be committed, as far as it is text."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in (data := path.read_bytes()):
            yield path, data.decode()


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_modules_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MODULE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES, node.name


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_modules_say_what_they_are(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize(("what", "pattern"), BANNED.items())
def test_no_file_contains(what: str, pattern: str) -> None:
    found = [
        f"{_name(path)}:{number}: {line.strip()[:100]}"
        for path, text in _texts()
        if path != Path(__file__)
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not found, f"{what}:\n" + "\n".join(found)


_MARKUP = re.compile(r"</[a-z]+[0-9]?>|<[a-z]+[0-9]? [a-z-]+=")


@pytest.mark.parametrize("path", FAREBOX, ids=_name)
def test_html_is_in_templates(path: Path) -> None:
    """Templates escape what they print; a string of HTML in a module might not."""
    tree = ast.parse(path.read_text())
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            assert not _MARKUP.search(node.value), f"line {node.lineno}: {node.value!r}"


def test_most_functions_fit_on_a_screen() -> None:
    sizes = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert sizes[len(sizes) * 9 // 10] <= 30
