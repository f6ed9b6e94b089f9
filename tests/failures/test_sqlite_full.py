"""On SQLite the journal covers a full disk: the database needs another page and cannot get one."""

from pathlib import Path

import pytest

from farebox.storage.sql import Connection
from tests.calls.kit import differences, log_row, price_of
from tests.calls.wire import Wire, chat_body
from tests.engines import SQLITE_ONLY
from tests.support import Farebox, running_farebox
from tests.waiting import until

pytestmark = [pytest.mark.slow, SQLITE_ONLY]

MOST_PAGES = 2**30
WORDS = 20_000
"""Bytes of a request that is kept with its log row and does not fit into existing pages."""


def allow_pages(farebox: Farebox, count: int) -> None:
    """Limit the database file to this many pages, or to its current size."""

    def allow(connection: Connection) -> None:
        connection.execute(f"PRAGMA max_page_count = {count}").fetchall()

    farebox.run(farebox.services.database.write(allow))


async def test_a_stream_ends_when_the_database_is_full_and_is_charged_when_there_is_room(tmp_path: Path) -> None:
    with running_farebox(tmp_path) as farebox:
        customer = farebox.funded("5")
        wire = await Wire.open(farebox.url)
        body = chat_body(" ".join(["word"] * WORDS), max_tokens=50, stream=True, stream_options={"include_usage": True})
        headers = customer.headers | {"content-type": "application/json", "x-demo": "tokens=5 gap=100"}
        await wire.send(f"/v1/{customer.account_id}/default/compat/chat/completions", headers, body)
        await wire.head()
        await wire.until(b"data: ")
        allow_pages(farebox, 1)
        response = await wire.response()
        assert response.events[-1] == "[DONE]"
        journals = list((tmp_path / "journal").glob("*.jsonl"))
        assert len(journals) == 1
        assert customer.balance.held > 0
        allow_pages(farebox, MOST_PAGES)
        until(lambda: not list((tmp_path / "journal").glob("*.jsonl")), "the journal is posted")
        cost = price_of(response.events[-2]["usage"]["prompt_tokens"], 5)
        row = log_row(customer, response.log_id)
        assert row["farebox"]["charge_nanos"] == cost
        assert customer.receipt(response.log_id)["charge_nanos"] == cost
        assert customer.balance.held == 0
        assert differences(farebox) == []
