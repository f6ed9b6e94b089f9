"""Conventions that no linter checks."""

import ast
import functools
import re
import subprocess
from collections import Counter
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
    """Every text file that is or would be committed."""
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


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _functions() -> Iterator[tuple[str, int]]:
    """The place and number of lines of each function."""
    for path in SOURCES:
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{_name(path)}:{node.lineno} {node.name}", (node.end_lineno or 0) - node.lineno + 1


def test_modules_stay_small() -> None:
    lines = {_name(path): path.read_text().count("\n") for path in SOURCES}
    assert not {name: count for name, count in lines.items() if count > MODULE_LINES}


def test_functions_stay_small() -> None:
    lines = dict(_functions())
    assert not {name: count for name, count in lines.items() if count > FUNCTION_LINES}
    assert sorted(lines.values())[len(lines) * 9 // 10] <= 30, "most fit on a screen"


def test_modules_have_a_docstring() -> None:
    assert not [_name(path) for path in SOURCES if not ast.get_docstring(_tree(path))]


@pytest.mark.parametrize(("what", "pattern"), BANNED.items())
def test_no_file_contains_banned_text(what: str, pattern: str) -> None:
    found = [
        f"{_name(path)}:{number}: {line.strip()[:100]}"
        for path, text in _texts()
        if path != Path(__file__)
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not found, f"{what}:\n" + "\n".join(found)


_MARKUP = re.compile(
    r"</[a-z]+[0-9]?>|<[a-z]+[0-9]? [a-z-]+="
    r"|(?<!\?P)<(?:a|b|br|button|div|form|h[1-6]|i|li|main|ol|p|pre|section|span|table|t[dhr]|ul)>"
)


def test_html_is_in_templates() -> None:
    """Templates escape what they print; a string of HTML in a module might not."""
    found = []
    for path in SOURCES:
        nodes = list(ast.walk(_tree(path)))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        found += [
            f"{_name(path)}:{node.lineno}: {node.value!r}"
            for node in nodes
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
            if _MARKUP.search(node.value)
        ]
    assert not found, "\n".join(found)


_WRITES = re.compile(
    r"\b(?:UPDATE|INSERT INTO|DELETE FROM) (balances|transfers|lots|holds|budgets)\b([^;]*)", re.IGNORECASE
)
_MONEY = re.compile(
    r"\b(?:posted|held|owed)\s*=|\blimit_spent\s*=(?!\s*0\b)|\([^)]*\b(?:posted|held|owed|limit_spent)\b[^)]*\)\s*(?:SELECT|VALUES)"
)
"""Columns of `balances` that are set; `limit_spent` to 0 only says that it has to be summed again."""


def _sql(path: Path) -> Iterator[str]:
    """The texts of a module, with a question mark for each value put into them; or the file, if it is SQL."""
    if path.suffix == ".sql":
        yield path.read_text()
        return
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "?" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _writes_money(text: str) -> bool:
    return any(
        table != "balances" or _MONEY.search(rest.partition(" WHERE ")[0]) for table, rest in _WRITES.findall(text)
    )


def test_only_the_ledger_writes_money() -> None:
    """A row of `balances` also has an account's thresholds, limit and time zone, which other modules write."""
    places = [*FAREBOX, *sorted((ROOT / "src/farebox/storage/postgres").glob("*.sql"))]
    found = {_name(path) for path in places if any(map(_writes_money, _sql(path)))}
    found.discard("src/farebox/storage/scratch.py")  # a copy in memory, for what-ifs
    functions = "src/farebox/storage/postgres/functions.sql"  # ledger_batch, which ledger.lanes calls
    assert functions in found
    assert "src/farebox/ledger/batches.py" in found
    assert not {name for name in found if not name.startswith("src/farebox/ledger/")} - {functions}


SHARED_NAMES = frozenset(
    re.findall(
        r"\w+",
        """
    account_settings accounts audit_log batches billing bills bodies books buckets by_unit calls cards causes
    conditions connection copying custom_domains custom_providers database datasets decoding deliveries dlp_profiles
    documents dynamic_routes envelope evaluations exchange failures figures findings frames gateways google headers
    instances lanes last_uses leases log_destination logs long_calls long_reports media members
    messages metadata metrics model model_aliases moving openai_chat openai_responses opening operator_alarms
    overruns passkeys policies pool prices processor_events provider provider_configs provider_keys providers reader
    readers reading refunds relay render replay routes rules services session sessions sign_in_attempts signing
    single_sign_on spans spend_alerts spending stored_objects system tokens transfer_statement unpaid usage view
    websocket what_if
        """,
    )
)
"""Names that several modules have, each for the same thing in its folder: `storage/tokens.py`, `cli/tokens.py`."""


def test_names_of_modules_are_shared_deliberately() -> None:
    names = Counter(path.stem for path in FAREBOX if path.stem != "__init__")
    assert {name for name, count in names.items() if count > 1} == SHARED_NAMES


REPRESENTED = {
    "src/farebox/http/pages/replay.py": "source code for Python",
    "src/farebox/storage/sqlite/writer.py": "an exception of any kind, for the log",
}
"""Modules that put Python's representation of a value into a text, and what it is for."""


def test_messages_quote_as_people_do() -> None:
    """`quoting.quoted` gives “x”; Python's own `'x'` is for `__repr__`."""
    found = []
    for path in FAREBOX:
        tree = _tree(path)
        own = {
            each
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name == "__repr__"
            for each in ast.walk(node)
        }
        found += [
            f"{_name(path)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.FormattedValue) and node.conversion == ord("r") and node not in own
        ]
    assert {place.partition(":")[0] for place in found} == set(REPRESENTED), found


def test_urls_of_the_data_plane_are_built_in_one_place() -> None:
    """`gateway.gateway_path`."""
    found = [_name(path) for path in FAREBOX if re.search(r"/v1/\{\w*(?:account|call\.|visit\.)", path.read_text())]
    assert not found


def test_the_quiz_quotes_the_code() -> None:
    """Each line of CONTRIBUTING's quiz is in the folder that its answer names."""
    quiz = (ROOT / "CONTRIBUTING.md").read_text().partition("### Quiz")[2].partition("## Conventions")[0]
    questions, _, given = quiz.partition("<summary>")
    lines = dict(re.findall(r"^(\d+)\. `(.*)`$", questions, re.MULTILINE))
    answers = dict(re.findall(r"^(\d+)\. `([\w/]+)`:", given, re.MULTILINE))
    assert len(lines) == 10
    assert lines.keys() == answers.keys()
    for number, line in lines.items():
        folders = [path for path in FAREBOX if any(line == found.strip() for found in path.read_text().splitlines())]
        assert [_name(path).startswith(f"src/farebox/{answers[number]}/") for path in folders] == [True], line
