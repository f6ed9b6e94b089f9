"""The directory keeps unique what must be unique across accounts, on both engines."""

from pathlib import Path
from typing import Any

import apsw
import asyncpg
import pytest

from farebox.payments.model import Refund
from farebox.storage import refunds
from farebox.storage.accounts import add_account
from farebox.storage.documents import DocumentRow, insert_document
from farebox.storage.sql import rows
from tests.engines import ON_BOTH_ENGINES, settings_for, write_now

BUCKETS = 4


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
        write_now(
            settings, lambda c: refunds.save_refund(c, one, _refund("acc0", "r1", "re_1"))
        )  # the other account keeps its own
        write_now(settings, lambda c: refunds.add_refund(c, two, _refund("other", "r2", None)))
        with pytest.raises(AssertionError, match="re_1"):
            write_now(settings, lambda c: refunds.save_refund(c, two, _refund("other", "r2", "re_1")))
        found = write_now(settings, lambda c: refunds.find_by_processor(c, "re_1"))
        assert found is not None
        assert found.refund_id == "r1"
