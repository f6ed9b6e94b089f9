"""SQL is written in two places only: the stores (`farebox.storage`), and the ledger, whose rules are statements.

Elsewhere no string is a statement or a piece of one, nothing calls `execute`, and nobody takes the helpers that run
statements (`row`, `rows`, `SNAPSHOT`) from `storage.sql`. Docstrings are prose.
"""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.repo.reference import ROOT

PACKAGE = ROOT / "src" / "farebox"
SQL_PACKAGES = ("storage", "ledger")
ELSEWHERE = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in SQL_PACKAGES)

STATEMENT = re.compile(
    r"^\s*(?:SELECT\s|INSERT\s+(?:OR\s+\w+\s+)?INTO\s|UPDATE\s+\S+\s+SET\s|DELETE\s+FROM\s|WITH\s+\w+\s.*\bAS\s*\(|TRUNCATE\s"
    r"|(?:CREATE|ALTER|DROP)\s+(?:TABLE|INDEX|UNIQUE|VIEW|FUNCTION|SCHEMA|DATABASE)\s|PRAGMA\s|VACUUM\b|ANALYZE\b"
    r"|(?:BEGIN|COMMIT|ROLLBACK)(?:\s+TRANSACTION)?\s*;?\s*$|SAVEPOINT\s)"
)
PIECE = re.compile(
    r"\b(?:SELECT\b.+\bFROM|FROM\s+\w+\s+(?:WHERE|JOIN|ORDER BY)|WHERE\s+\S+\s*(?:=|<|>|IN\b|IS\b)|ORDER\s+BY\s"
    r"|GROUP\s+BY\s|ON\s+CONFLICT\b)"
)
HELPERS = {"row", "rows", "SNAPSHOT"}

LOCK = re.compile(r"\bFROM (\w+)\b(?:(?!\bFROM\b|;).)*?\bFOR (?:NO KEY )?(?:KEY )?(?:UPDATE|SHARE)\b", re.DOTALL)
LOCKS = {
    # Called by citus.sql on Citus, which has locked a shard of the bucket before.
    ("functions.sql", "balances"),
    ("functions.sql", "lanes"),
    # Checks whether a batch is in progress. The DELETE after it waits for one as well.
    ("instances.py", "lanes"),
}
"""Exceptions: statements that lock rows without writing to them."""


def findings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and reason of each violation of the rule."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose | parts:
            text = node.value
        elif isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.startswith("execute")
        ):
            yield node.lineno, "a statement is run"
            continue
        elif isinstance(node, ast.ImportFrom) and node.module == "farebox.storage.sql":
            taken = HELPERS & {name.name for name in node.names}
            if taken:
                yield node.lineno, f"takes {', '.join(sorted(taken))} from storage.sql"
            continue
        else:
            continue
        if STATEMENT.search(text) or PIECE.search(text):
            yield node.lineno, f"SQL: {' '.join(text.split())[:60]}"


def test_sql_is_written_in_the_stores_and_the_ledger_only() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {why}"
        for path in ELSEWHERE
        for line, why in findings(ast.parse(path.read_text()))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "planted",
    [
        'connection.execute("x")',
        'job = "SELECT 1"',
        'job = f"UPDATE {table} SET a = ?"',
        'job = ("INSERT INTO t (a) "\n "VALUES (?)")',
        'condition = f"{columns} FROM accounts WHERE a = ?"',
        'connection.run("COMMIT")',
        "from farebox.storage.sql import Connection, rows",
    ],
)
def test_the_rule_finds_violations(planted: str) -> None:
    assert list(findings(ast.parse(planted)))


@pytest.mark.parametrize("prose", ['"""SELECT is a word of SQL."""', 'text = "Select a card, or pay on the page."'])
def test_prose_is_not_sql(prose: str) -> None:
    assert not list(findings(ast.parse(prose)))


def test_rows_are_locked_by_writing_to_them() -> None:
    """While Citus moves a shard, it waits for transactions that have written to it, but not for those that have only
    locked rows: their later writes would overwrite what others have written at the new place."""
    storage = PACKAGE / "storage" / "postgres"
    texts = {path.name: path.read_text() for path in PACKAGE.rglob("*.py") if path.name != "dialect.py"}
    texts |= {path.name: path.read_text() for path in storage.glob("*.sql")}
    assert {(name, table) for name, text in texts.items() for table in LOCK.findall(text)} == LOCKS
    entry = texts["citus.sql"]
    locked, called = (
        entry.index("PERFORM lock_shard_metadata(5, ARRAY[shard])"),
        entry.index("RETURN :schema.ledger_batch_"),
    )
    assert locked < called
