"""Stored totals and sums, which are not computed at each read: the result is the same either way."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from farebox.billing.documents import statement_reader
from farebox.clock import RandomIds
from farebox.ledger.commands import Grant
from farebox.storage import log_totals, transfer_days
from farebox.storage.calls import CallDetail, CallRow, forget_logs_above, insert_call
from farebox.storage.sql import SNAPSHOT, Connection, row
from tests.engines import ON_BOTH_ENGINES, looking
from tests.support import Customer, running_farebox

pytestmark = ON_BOTH_ENGINES

FEW = 5
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


@pytest.fixture
def customer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Customer]:
    monkeypatch.setattr(log_totals, "KEEP_FROM", FEW)
    monkeypatch.setattr(transfer_days, "KEEP_FROM", FEW)
    with running_farebox(tmp_path) as farebox:
        yield farebox.funded()


class _At:
    """A clock for IDs in the past."""

    def __init__(self, at: int) -> None:
        self._at = at

    def now_ms(self) -> int:
        return self._at


def add_calls(customer: Customer, count: int, at: int) -> None:
    """Add log rows of calls that began at this time, as if they had been served."""
    ids = RandomIds(_At(at))  # type: ignore[arg-type]
    calls = [
        CallRow(
            account_id=customer.account_id, log_id=ids.log_id(), gateway_id="default", created_at=at, provider="demo",
            model="demo-1", success=True, status_code=200, duration=1, tokens_in=1, tokens_out=1, cost=1, charge=0,
            detail=CallDetail(), receipt=None, logged=True,
        )
        for _ in range(count)
    ]  # fmt: skip

    def insert(connection: Connection) -> None:
        for call in calls:
            insert_call(connection, 0, call)

    farebox = customer.farebox
    farebox.run(farebox.services.database.write(insert))


def listed(customer: Customer, query: str = "") -> int:
    """The total that the list of logs reports."""
    response = httpx.get(f"{customer.api_url}/ai-gateway/gateways/default/logs{query}", headers=customer.headers)
    assert response.status_code == 200, response.text
    return int(response.json()["result_info"]["total_count"])


def kept(customer: Customer) -> int | None:
    """The number of calls in the stored total; None without one."""
    farebox = customer.farebox
    found = farebox.run(farebox.services.database.get(lambda c: row(c, "SELECT calls FROM log_totals")))
    return None if found is None else int(found[0])


def test_log_totals_are_cached_for_old_calls(customer: Customer) -> None:
    now = customer.farebox.services.clock.now_ms()
    add_calls(customer, 20, now - 5 * HOUR_MS)
    assert listed(customer) == 20
    assert kept(customer) == 0  # the first read only creates the row for it
    assert listed(customer) == 20
    assert kept(customer) == 20
    add_calls(customer, 3, now)
    assert listed(customer) == 23
    add_calls(customer, 7, now)  # others that began before them may still be added
    assert [listed(customer), listed(customer)] == [30, 30]
    assert kept(customer) == 20
    assert listed(customer, "?success=true") == 30  # counted row by row, like every filter


def test_deleted_log_rows_are_subtracted_from_the_total(customer: Customer) -> None:
    now = customer.farebox.services.clock.now_ms()
    add_calls(customer, 20, now - 5 * HOUR_MS)
    add_calls(customer, 4, now)
    assert [listed(customer), listed(customer)] == [24, 24]
    assert kept(customer) == 20
    farebox = customer.farebox
    gateway = (0, customer.account_id, "default")
    assert farebox.run(farebox.services.database.write(lambda c: forget_logs_above(c, gateway, keep=22))) == 2
    assert (listed(customer), kept(customer)) == (22, 18)
    assert farebox.run(farebox.services.database.write(lambda c: forget_logs_above(c, gateway, keep=3))) == 19
    assert (listed(customer), kept(customer)) == (3, 0)


def test_a_count_overtaken_by_a_clean_up_is_not_cached(customer: Customer) -> None:
    farebox, account_id = customer.farebox, customer.account_id
    now, database = farebox.services.clock.now_ms(), customer.farebox.services.database
    add_calls(customer, 20, now - 5 * HOUR_MS)
    listed(customer)
    was, new = farebox.run(
        database.scan(lambda c: log_totals.new_total(c, account_id, "default", before=now - HOUR_MS, now=now))
    )
    assert new.calls == 20
    farebox.run(database.write(lambda c: forget_logs_above(c, (0, account_id, "default"), keep=15)))
    farebox.run(database.write(lambda c: log_totals.keep_total(c, account_id, "default", was, new)))
    assert kept(customer) == 0
    assert listed(customer) == 15


def test_a_call_that_was_recorded_very_late_is_counted_within_a_day(customer: Customer) -> None:
    farebox, account_id = customer.farebox, customer.account_id
    now, database = farebox.services.clock.now_ms(), customer.farebox.services.database
    add_calls(customer, 20, now - 5 * HOUR_MS)
    assert [listed(customer), listed(customer)] == [20, 20]
    add_calls(customer, 1, now - 9 * HOUR_MS)
    assert listed(customer) == 20
    tomorrow = now + DAY_MS + HOUR_MS
    was, new = farebox.run(
        database.scan(lambda c: log_totals.new_total(c, account_id, "default", before=now, now=tomorrow))
    )
    farebox.run(database.write(lambda c: log_totals.keep_total(c, account_id, "default", was, new)))
    assert listed(customer) == 21


def test_a_statement_is_the_same_from_kept_sums(customer: Customer) -> None:
    """With transfers of three months, sums stored after every few, and late transfers in months that are already
    summed."""
    farebox, account_id = customer.farebox, customer.account_id
    services = farebox.services
    times = [1_790_000_000_000 + (number * 7 % 13) * 8 * DAY_MS for number in range(30)]
    months = ("2026-09", "2026-10", "2026-11", "2026-12")

    def statements() -> list[object]:
        def read(connection: Connection) -> list[object]:
            return [statement_reader(services.settings, account_id, month, 0)(connection) for month in months]

        return farebox.run(services.database.scan(read))

    for number, at in enumerate(times):
        grant = Grant(account_id=account_id, grant_id=f"g{number}", amount=1_000 + number, at=at)
        assert farebox.run(services.ledger.do(grant)).ok
        if number % 8 == 7:
            before = statements()
            new = farebox.run(services.database.scan(lambda c: transfer_days.new_sums(c, account_id)))
            assert new is not None
            for _ in range(2):  # the second finds that it is done
                farebox.run(services.database.write(lambda c, new=new: transfer_days.keep_sums(c, new)))  # type: ignore[misc]
            assert statements() == before
            assert farebox.run(services.database.scan(lambda c: transfer_days.new_sums(c, account_id))) is None
    total = row_of_transfers(customer)
    assert statements()[-1].closing_nanos == total  # type: ignore[attr-defined]


def row_of_transfers(customer: Customer) -> int:
    """The account's balance, from its transfers."""
    farebox = customer.farebox
    sql = "SELECT sum(amount) FROM transfers WHERE account_id = ?"
    found = farebox.run(farebox.services.database.scan(lambda c: row(c, sql, (customer.account_id,))))
    assert found is not None
    return int(found[0])


def test_a_requested_statement_caches_its_sums(customer: Customer) -> None:
    farebox = customer.farebox
    for number in range(FEW + 1):
        farebox.grant(customer.account_id, f"{number + 1}")
    now = farebox.services.clock.now_ms()
    month = datetime.fromtimestamp(now / 1000, UTC).strftime("%Y-%m")
    address = f"{customer.api_url}/farebox/statements/{month}"
    closing = [httpx.get(address, headers=customer.headers).json()["result"]["closing_nanos"] for _ in range(2)]
    assert closing == [customer.balance.posted] * 2
    marks = farebox.run(farebox.services.database.get(lambda c: row(c, "SELECT version FROM transfer_marks")))
    assert marks == (FEW + 2,)


def test_a_statement_is_read_in_one_snapshot(customer: Customer) -> None:
    """Sums that are stored while it reads are neither missing from it nor counted twice."""
    farebox, account_id = customer.farebox, customer.account_id
    database = farebox.services.database
    for number in range(FEW):
        farebox.grant(customer.account_id, f"{number + 1}")
    new = farebox.run(database.scan(lambda c: transfer_days.new_sums(c, account_id)))
    assert new is not None
    with looking(database) as reader:
        reader.execute(SNAPSHOT)
        assert row(reader, "SELECT count(*) FROM transfer_marks") == (0,)
        farebox.run(database.write(lambda c: transfer_days.keep_sums(c, new)))
        assert row(reader, "SELECT count(*) FROM transfer_days") == (0,)
        assert sum(item.amount for item in transfer_days.day_sums(reader, account_id)) == customer.balance.posted
        reader.execute("COMMIT")
        assert row(reader, "SELECT count(*) FROM transfer_marks") == (1,)
