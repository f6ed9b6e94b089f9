"""Every statement on the tables of accounts names its bucket as a value (storage.account_keys explains why).

The texts are read from the source and parsed by PostgreSQL's parser, so no database or cluster is needed.
"""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from pglast import parse_plpgsql, parse_sql
from pglast.parser import ParseError
from pglast.stream import RawStream

from farebox.storage.bucket_moves import LOCK, copy, count_all, delete, moved_tables
from farebox.storage.postgres.dialect import translated
from farebox.storage.postgres.distributing import statements as placing
from tests.repo.buckets import without_bucket_of
from tests.repo.reference import ROOT
from tests.repo.statements import Module, Statement, Unread, statements, stores

DISTRIBUTED = frozenset(re.findall(r"create_distributed_table\('(\w+)', 'bucket'", "\n".join(placing(16))))
WITH_BUCKET = DISTRIBUTED | {"accounts"}
FUNCTIONS = ROOT / "src/farebox/storage/postgres/functions.sql"

EVERYWHERE = ("SELECT min(bucket) FROM",)
"""Prefixes of statements that must reach every node: the audit queries which buckets have rows."""
SQLITE_ONLY = ("BEGIN IMMEDIATE", "PRAGMA")


@lru_cache
def _all() -> list[Statement]:
    return list(statements(stores()))


def test_every_store_statement_names_its_bucket() -> None:
    found = [
        f"{each.where}: {table} in {each.sql[:100]}"
        for each in _all()
        if not each.sql.startswith((*EVERYWHERE, *SQLITE_ONLY))
        for table in without_bucket_of(translated(each.sql), DISTRIBUTED, WITH_BUCKET)
    ]
    assert not found, "\n".join(found)


def test_every_statement_that_moves_an_account_names_its_bucket() -> None:
    texts = [LOCK, count_all(), *(text for table in moved_tables() for text in (copy(table), delete(table)))]
    assert {table.name for table in moved_tables()} == DISTRIBUTED - {"lanes"}
    for text in texts:
        assert not without_bucket_of(translated(text), DISTRIBUTED, WITH_BUCKET), text


def test_the_checked_statements_are_found_in_the_stores() -> None:
    texts = [each.sql for each in _all()]
    assert len(texts) > 250
    for table in DISTRIBUTED - {"lanes"}:
        assert any(re.search(rf"\b{table}\b", text) for text in texts), table


def _of_functions() -> Iterator[str]:
    """The statements in the bodies of the ledger's functions."""
    for statement in parse_sql(FUNCTIONS.read_text()):
        if type(statement.stmt).__name__ == "CreateFunctionStmt":
            text = RawStream()(statement)
            if "plpgsql" in text.lower():
                yield from _queries(json.loads(json.dumps(parse_plpgsql(text))))


def _queries(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for each in node:
            yield from _queries(each)
    elif isinstance(node, dict):
        if "PLpgSQL_expr" in node:
            yield node["PLpgSQL_expr"]["query"]
        for each in node.values():
            yield from _queries(each)


def _parsable(text: str) -> str:
    """The text as a statement; an expression or assignment is converted into one."""
    for form in (text, f"SELECT {text}", f"SELECT {text.partition(':=')[2]}"):
        try:
            parse_sql(form)
        except ParseError:
            continue
        return form
    raise AssertionError(f"cannot be parsed: {text}")


def test_every_statement_of_the_ledgers_functions_names_its_bucket() -> None:
    queries = [_parsable(text) for text in _of_functions()]
    assert any("holds" in text for text in queries)
    found = [
        f"{table} in {text[:100]}" for text in queries for table in without_bucket_of(text, DISTRIBUTED, WITH_BUCKET)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT posted FROM balances WHERE account_id = $1",
        "SELECT posted FROM balances WHERE bucket = (SELECT bucket FROM accounts WHERE account_id = $1)",
        "SELECT posted FROM balances WHERE bucket = $1 OR account_id = $2",
        "SELECT posted FROM balances WHERE bucket > $1",
        "SELECT b.posted FROM accounts a JOIN balances b ON b.bucket = a.bucket WHERE a.account_id = $1",
        "SELECT b.posted FROM accounts a JOIN balances b ON b.bucket = a.bucket WHERE a.bucket = $1",
        "SELECT b.posted FROM balances b JOIN cards c ON c.account_id = b.account_id WHERE b.bucket = $1",
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM cards)",
        "SELECT posted FROM balances b WHERE bucket = $1 AND EXISTS (SELECT 1 FROM cards c WHERE c.bucket = c.bucket)",
        "SELECT posted FROM balances b WHERE bucket = $1 AND EXISTS (SELECT 1 FROM cards c WHERE c.bucket = b.bucket)",
        "SELECT 1 FROM holds WHERE bucket = $1 UNION SELECT 1 FROM lots",
        "UPDATE balances SET posted = 0 WHERE account_id = $1",
        "UPDATE balances SET posted = 0 WHERE bucket = (SELECT bucket FROM accounts WHERE account_id = $1)",
        "DELETE FROM cards",
        "INSERT INTO gateways (account_id) VALUES ($1)",
        "INSERT INTO gateways (bucket, account_id) SELECT bucket, account_id FROM accounts WHERE account_id = $1",
        "INSERT INTO gateways (bucket) VALUES ((SELECT bucket FROM accounts WHERE account_id = $1))",
    ],
)
def test_statements_without_a_bucket_are_found(sql: str) -> None:
    assert without_bucket_of(sql, DISTRIBUTED, WITH_BUCKET)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT posted FROM balances WHERE bucket = $1 AND account_id = $2",
        "SELECT b.posted FROM balances b LEFT JOIN cards c ON c.bucket = b.bucket WHERE b.bucket = $1",
        "SELECT c.receipt FROM accounts a CROSS JOIN calls c WHERE a.bucket = $1 AND c.bucket = $1",
        "SELECT posted FROM balances b WHERE bucket = $1 AND EXISTS (SELECT 1 FROM cards c WHERE c.bucket = $1)",
        "SELECT min(f.account_id) FROM (SELECT account_id FROM holds WHERE bucket = $1) f",
        "UPDATE lots SET remaining = 0 FROM unnest($2::text[]) AS q(lot_id) WHERE bucket = $1 AND lots.lot_id = lot_id",
        "INSERT INTO holds (bucket, hold_id) SELECT p_bucket, q.hold_id FROM unnest($1::text[]) AS q(hold_id)",
        "INSERT INTO holds (bucket, hold_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        "SELECT name FROM accounts WHERE account_id = $1",
    ],
)
def test_statements_with_a_bucket_pass(sql: str) -> None:
    assert not without_bucket_of(sql, DISTRIBUTED, WITH_BUCKET)


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ("def f(c, all):\n    row(c, f\"SELECT {'a' if all else 'b'}\")", {"SELECT a", "SELECT b"}),
        ('def f(c):\n    _g(c, "x")\ndef _g(c, which):\n    c.execute(f"SELECT {which}")', {"SELECT x"}),
        ('def f(c):\n    w, v = ("", ()) if c else (" 1", (1,))\n    rows(c, "SELECT" + w, v)', {"SELECT", "SELECT 1"}),
    ],
)
def test_texts_are_composed_of_pieces(source: str, texts: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / "src/farebox/storage/sql.py"
    monkeypatch.setattr(Path, "read_text", lambda _: source)
    assert {each.sql for each in Module(path).statements()} == texts


def test_an_unresolvable_sql_text_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / "src/farebox/storage/sql.py"
    monkeypatch.setattr(Path, "read_text", lambda _: "def f(c, text):\n    row(c, text)")
    with pytest.raises(Unread):
        list(Module(path).statements())
