"""What must be unique across accounts is so by the directory, on both engines; and older databases get theirs."""

import asyncio
from pathlib import Path
from typing import Any

import apsw
import asyncpg
import pytest

from farebox.payments.model import Refund
from farebox.settings import load
from farebox.storage import documents, refunds
from farebox.storage.accounts import add_account
from farebox.storage.database import migrate_now, opened_for_command
from farebox.storage.documents import DocumentRow, find_by_number, insert_document
from farebox.storage.migrations import migrations
from farebox.storage.postgres.dialect import schema
from farebox.storage.sql import rows
from tests.engines import ON_BOTH_ENGINES, SQLITE_ONLY, settings_for, write_now

BUCKETS = 4
DOCUMENT = "INSERT INTO documents VALUES (0, 'a', 'FB-1', 'invoice', 't', 'in_1', 500, '{\"of\": 1}', 7)"
REFUND = "INSERT INTO refunds VALUES (0, 'a', '{}', 't', {}, 'requested', 5, 5, 'why', NULL, NULL, 1, 2)"


def _document(account_id: str, number: str, cause_id: str) -> DocumentRow:
    return DocumentRow(
        account_id=account_id, number=number, kind="invoice", top_up_id="t", cause_id=cause_id, total_cents=5,
        content=b"{}", issued_at=1,
    )  # fmt: skip


def _refund(account_id: str, refund_id: str, processor_id: str | None) -> Refund:
    return Refund(
        account_id=account_id, refund_id=refund_id, top_up_id="t", processor_id=processor_id, state="requested",
        amount_cents=5, credit_cents=5, created_at=1, updated_at=1,
    )  # fmt: skip


def _both(connection: Any) -> tuple[int, int]:
    """Two accounts in two buckets; their buckets."""
    first = add_account(connection, "acc0", "", 1, BUCKETS)
    second = next(
        found
        for found in (add_account(connection, f"acc{number}", "", 1, BUCKETS) for number in range(1, 50))
        if found.bucket != first.bucket
    )
    assert second.account_id != first.account_id
    connection.execute("UPDATE accounts SET name = 'second' WHERE account_id = ?", (second.account_id,))
    return first.bucket, second.bucket


class TestUnique:
    pytestmark = ON_BOTH_ENGINES

    def test_two_accounts_cannot_have_one_number(self, tmp_path: Path) -> None:
        settings = settings_for(tmp_path)
        one, two = write_now(settings, _both)
        write_now(settings, lambda c: insert_document(c, one, _document("acc0", "FB-1", "in_1")))
        with pytest.raises((apsw.ConstraintError, asyncpg.UniqueViolationError)):
            write_now(settings, lambda c: insert_document(c, two, _document("other", "FB-1", "in_2")))
        assert write_now(settings, lambda c: rows(c, "SELECT account_id, number FROM documents")) == [("acc0", "FB-1")]

    def test_two_refunds_cannot_have_one_name(self, tmp_path: Path) -> None:
        settings = settings_for(tmp_path)
        one, two = write_now(settings, _both)
        write_now(settings, lambda c: refunds.add_refund(c, one, _refund("acc0", "r1", "re_1")))
        write_now(settings, lambda c: refunds.save_refund(c, one, _refund("acc0", "r1", "re_1")))  # it keeps its own
        write_now(settings, lambda c: refunds.add_refund(c, two, _refund("other", "r2", None)))
        with pytest.raises(AssertionError, match="re_1"):
            write_now(settings, lambda c: refunds.save_refund(c, two, _refund("other", "r2", "re_1")))
        found = write_now(settings, lambda c: refunds.find_by_processor(c, "re_1"))
        assert found is not None
        assert found.refund_id == "r1"


def _old_file(path: Path) -> None:
    """A database as the second migration left it."""
    connection = apsw.Connection(str(path))
    for number, text in migrations()[:2]:
        connection.execute(text.replace("/* clustered */", "WITHOUT ROWID"))
        connection.execute(f"PRAGMA user_version = {number}")
    for statement in _old_rows():
        connection.execute(statement)
    connection.close()


async def _old_database(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE schema_version (version BIGINT NOT NULL, functions TEXT NOT NULL)")
    await connection.execute("INSERT INTO schema_version VALUES (2, '')")
    for _, text in migrations()[:2]:
        await connection.execute(schema(text))
    for statement in _old_rows():
        await connection.execute(statement)
    await connection.close()


def _old_rows() -> list[str]:
    account = "INSERT INTO accounts VALUES ('a', 0, 'A', 1)"
    balance = "INSERT INTO balances (bucket, account_id) VALUES (0, 'a')"
    return [account, balance, DOCUMENT, REFUND.format("r1", "'re_1'"), REFUND.format("r2", "NULL")]


@SQLITE_ONLY
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_an_older_database_keeps_its_rows_and_gets_the_directory(kind: str, tmp_path: Path, postgres_url: str) -> None:
    if kind == "sqlite":
        _old_file(tmp_path / "farebox.db")
        settings = load({}, data_dir=str(tmp_path))
    else:
        asyncio.run(_old_database(postgres_url))
        settings = load({}, database_url=postgres_url)
    applied, _ = migrate_now(settings)
    assert 3 in applied
    with opened_for_command(settings, writing=True) as connection:
        found = find_by_number(connection, "FB-1")
        assert found is not None
        assert (found.account_id, found.cause_id, found.content) == ("a", "in_1", b'{"of": 1}')
        assert documents.list_documents(connection, "a", 0, 10)[1] == 1
        assert sorted(one.refund_id for one in refunds.refunds_of(connection, 0, "a")) == ["r1", "r2"]
        assert rows(connection, "SELECT * FROM document_numbers") == [("FB-1", "a", "in_1")]
        assert rows(connection, "SELECT * FROM refund_names") == [("re_1", "a", "r1")]
