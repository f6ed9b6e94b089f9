"""An unreachable Citus node affects its own accounts and no others.

No cluster is needed: on one PostgreSQL, any access to rows of one bucket raises the error with which a coordinator
reports an unreachable node. For that, the tables are replaced with views over the real ones.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest

from farebox import periodic_jobs
from farebox.ledger import lanes
from farebox.model import Role
from farebox.storage.account_keys import key_of
from farebox.storage.accounts import add_account, find_account
from farebox.storage.deliveries import add_delivery, count_given_up
from farebox.storage.every_bucket import rows_available, rows_everywhere
from farebox.storage.notices import add_notice
from farebox.storage.sql import Connection, DatabaseUnavailable, NodeUnavailable
from tests import engines
from tests.calls.gate import MODEL, SLUG, Gate, gated
from tests.calls.kit import differences, log_rows
from tests.citus.cluster import CITUS
from tests.dbcopy.kit import farebox
from tests.pages.people import person
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import until

pytestmark = pytest.mark.skipif(engines.CHOSEN == "sqlite", reason="nodes are those of Citus")

BUCKETS = 4
PAUSE = 0.1
"""Seconds between calls while a node hangs, which takes ten: without it they would keep a processor busy."""
VIEWED = (
    "balances", "holds", "transfers", "lots", "gateways", "calls", "usage_hours", "top_ups", "cards", "cache_totals",
    "deliveries", "notices",
)  # fmt: skip
PREPARE = """
CREATE TABLE away (bucket INTEGER, how TEXT NOT NULL DEFAULT 'gone');
CREATE FUNCTION there(of INTEGER) RETURNS BOOLEAN LANGUAGE plpgsql COST 100000 AS $$ BEGIN
    IF EXISTS (SELECT FROM away WHERE bucket = of AND how = 'hangs') THEN
        PERFORM pg_sleep(60);
    ELSIF EXISTS (SELECT FROM away WHERE bucket = of AND how = 'its Citus is older') THEN
        EXECUTE 'SELECT differs() -- while executing command on db1:5432 ';
    ELSIF EXISTS (SELECT FROM away WHERE bucket = of AND how = 'it has no Citus') THEN
        EXECUTE 'SELECT lacks() -- while executing command on db1:5432 ';
    ELSIF EXISTS (SELECT FROM away WHERE bucket = of AND how = 'its connection broke') THEN
        RAISE 'failure on connection marked as essential: db1:5432' USING ERRCODE = 'XX000';
    ELSIF EXISTS (SELECT FROM away WHERE bucket = of AND how = 'it does not answer') THEN
        RAISE 'could not establish any connections to the node db1:5432 after 3000 ms' USING ERRCODE = '08006';
    ELSIF EXISTS (SELECT FROM away WHERE bucket = of AND how = 'that of the coordinator is older') THEN
        RETURN differs();
    ELSIF EXISTS (SELECT FROM away WHERE bucket = of) THEN
        RAISE 'connection to the remote node farebox@db1:5432 failed with the following error: refused'
            USING ERRCODE = '08006';
    END IF;
    RETURN TRUE;
END $$;
CREATE SEQUENCE looks;
CREATE FUNCTION master_run_on_worker(names TEXT[], ports INTEGER[], commands TEXT[], together BOOLEAN)
    RETURNS TABLE (success BOOLEAN) LANGUAGE sql AS
    $$ SELECT (names, ports) = ('{db1}'::TEXT[], '{5432}'::INTEGER[]) AND NOT EXISTS (SELECT FROM away)
        FROM (SELECT CASE WHEN (SELECT nextval('looks') FROM away WHERE how = 'hangs') > 0 THEN pg_sleep(60) END
            OFFSET 0) hangs $$;
CREATE FUNCTION differs() RETURNS BOOLEAN LANGUAGE plpgsql AS $$ BEGIN
    RAISE 'loaded Citus library version differs from installed extension version' USING ERRCODE = 'XX000';
END $$;
CREATE FUNCTION lacks() RETURNS BOOLEAN LANGUAGE plpgsql AS $$ BEGIN
    RAISE 'function assign_distributed_transaction_id(integer) does not exist' USING ERRCODE = '42883';
END $$;
CREATE FUNCTION get_current_transaction_id() RETURNS BOOLEAN LANGUAGE plpgsql AS $$ BEGIN
    RETURN CASE WHEN nextval('looks') > 0 AND EXISTS (SELECT FROM away) THEN differs() END;
END $$;
"""
VIEW = """
ALTER TABLE {0} RENAME TO real_{0};
CREATE VIEW {0} AS SELECT * FROM real_{0} WHERE there(bucket) WITH CHECK OPTION;
"""


class World:
    def __init__(self, farebox: Farebox) -> None:
        self.farebox = farebox
        self.here, self.there = self._customer(0), self._customer(1)
        for customer in (self.here, self.there):
            assert customer.chat().status_code == 200  # creates its gateway and opens its lane
        self.execute(PREPARE + "".join(VIEW.format(table) for table in VIEWED))

    def _customer(self, which: int) -> Customer:
        """A customer in a separate bucket."""
        number, buckets = 0, list[int]()
        while True:
            account_id = f"{number:032x}"
            number += 1
            account = self.farebox.run(
                self.farebox.services.database.get(lambda c: find_account(c, account_id))  # noqa: B023 - awaited here
            ) or self.farebox.run(
                self.farebox.services.database.write(lambda c: add_account(c, account_id, "", 1, BUCKETS))  # noqa: B023
            )
            if account.bucket not in buckets:
                buckets.append(account.bucket)
                if len(buckets) > which:
                    self.farebox.grant(account_id, "5")
                    return Customer(self.farebox, account_id, self.farebox.create_token(account_id))

    def execute(self, sql: str, *values: object) -> None:
        async def work() -> None:
            session = await asyncpg.connect(self.farebox.services.settings.database_url)
            try:
                await session.execute(sql, *values)
            finally:
                await session.close()

        asyncio.run(work())

    def bucket(self, customer: Customer) -> int:
        database = self.farebox.services.database
        account = self.farebox.run(database.get(lambda c: find_account(c, customer.account_id)))
        assert account is not None
        return account.bucket

    def take_away(self, how: str = "gone") -> None:
        self.execute("INSERT INTO away VALUES ($1, $2)", self.bucket(self.there), how)

    def bring_back(self) -> None:
        self.execute("DELETE FROM away")

    @property
    def looks(self) -> int:
        """How often the health check has probed Citus itself."""
        sql = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM looks"
        with engines.looking(self.farebox.services.settings) as connection:
            found = connection.execute(sql).fetchone()
        assert found is not None
        return int(found[0])

    @property
    def marked(self) -> dict[str, float]:
        return self.farebox.services.database.health._nodes  # type: ignore[attr-defined,no-any-return]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    engines.use_engine("postgres")
    with engines.one_machine() as server:
        more = {"database_url": server.new_database()} if CITUS else {}
        with running_farebox(tmp_path, database_timeout_ms=10_000, **more) as farebox:
            yield World(farebox)


def _status(customer: Customer, path: str) -> int:
    import httpx

    return httpx.get(f"{customer.api_url}/{path}", headers=customer.headers, timeout=60).status_code


READS = (
    "ai-gateway/billing/credit-balance", "ai-gateway/gateways", "ai-gateway/gateways/default/logs", "farebox/balance",
    "farebox/transfers", "farebox/lots",
)  # fmt: skip


@pytest.mark.parametrize(
    "how", ["gone", "its Citus is older", "it has no Citus", "its connection broke", "it does not answer"]
)
def test_only_accounts_on_the_lost_node_are_refused(world: World, how: str) -> None:
    world.take_away(how)
    for _ in range(3):
        refused = world.there.chat()
        assert refused.status_code == 503
        assert refused.json()["errors"][0]["code"] == 2946
        assert int(refused.headers["retry-after"]) > 0
        assert world.here.chat().status_code == 200
    assert [_status(world.here, path) for path in READS] == [200] * len(READS)
    assert [_status(world.there, path) for path in READS] == [503] * len(READS)
    world.farebox.services.database.check()  # the whole database is not marked as unavailable
    assert list(world.marked) == ["db1:5432"]
    world.bring_back()
    until(lambda: world.there.chat().status_code == 200, "the accounts of the node are served")
    until(lambda: not world.marked, "the node is seen to be back")
    until(lambda: world.farebox.services.journal.empty, "the journal is posted", 20)  # type: ignore[union-attr]
    assert differences(world.farebox) == []


def test_a_coordinator_in_the_middle_of_a_citus_upgrade_counts_as_unavailable(world: World) -> None:
    database = world.farebox.services.database
    world.take_away("that of the coordinator is older")
    assert world.there.chat().json()["errors"][0]["code"] == 2913
    until(lambda: world.looks >= 3, "the watch has looked at Citus itself")
    with pytest.raises(DatabaseUnavailable):
        database.check()
    assert world.here.chat().status_code == 503
    world.bring_back()
    until(lambda: world.there.chat().status_code == 200, "the database is back")
    until(lambda: world.farebox.services.journal.empty, "the journal is posted")  # type: ignore[union-attr]
    assert differences(world.farebox) == []


def test_calls_that_are_refused_at_once_leave_nothing_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "NODE_UNAVAILABLE_SECONDS", 600.0)
    journal = world.farebox.services.journal
    assert journal is not None
    world.farebox.run(world.farebox.services.configuration.notice_changes())
    assert world.there.chat().status_code == 200  # its gateway is cached from here on
    world.take_away()
    assert world.there.chat().json()["errors"][0]["code"] == 2946
    until(lambda: journal.added, "the one that found out is recorded")
    kept = journal.added
    assert [world.there.chat().json()["errors"][0]["code"] for _ in range(5)] == [2946] * 5
    assert journal.added == kept


def test_a_refused_call_is_logged_with_the_status_that_its_caller_got(world: World) -> None:
    world.farebox.run(world.farebox.services.configuration.notice_changes())
    assert world.there.chat().status_code == 200  # its gateway is known from here on
    world.take_away()
    assert world.there.chat().status_code == 503
    world.bring_back()
    until(lambda: len(log_rows(world.there)) == 3, "its row is in the log", 20)
    assert sorted(row["status_code"] for row in log_rows(world.there)) == [200, 200, 503]


def test_a_hanging_node_does_not_make_the_database_unavailable(world: World) -> None:
    world.take_away()
    assert world.there.chat().status_code == 503  # the database is known to be a cluster from here on
    world.execute("UPDATE away SET how = 'hangs'")
    refused: list[int] = []
    caller = threading.Thread(target=lambda: refused.append(_status(world.there, READS[0])))
    caller.start()
    while caller.is_alive() or world.looks < 2:
        world.farebox.services.database.check()
        assert world.here.chat().status_code == 200
        caller.join(PAUSE)
    assert refused == [503]
    world.farebox.services.database.check()


def _call_whose_node_is_lost(world: World, customer: Customer, gate: Gate) -> None:
    """A call that was admitted before its account's node is lost, and ends after that."""
    gate.shut()
    call = threading.Thread(target=customer.chat, kwargs={"model": f"{SLUG}/{MODEL}"})
    call.start()
    until(lambda: gate.waiting == 1, "it is held for and forwarded")
    world.execute("INSERT INTO away VALUES ($1)", world.bucket(customer))
    gate.open()
    call.join()


def test_the_first_node_that_hangs_does_not_make_a_cluster_unavailable(world: World) -> None:
    database = world.farebox.services.database
    database.health.is_cluster = True  # type: ignore[attr-defined]  # found at the start, if the tables are distributed
    world.take_away("hangs")
    refused: list[int] = []
    caller = threading.Thread(target=lambda: refused.append(_status(world.there, READS[0])))
    caller.start()
    while caller.is_alive():
        database.check()
        assert world.here.chat().status_code == 200
        caller.join(PAUSE)
    assert refused == [503]
    database.check()


def test_a_charge_that_waits_for_the_node_does_not_delay_others(world: World) -> None:
    """The journal contains the ends of calls of both accounts, in separate files, those of the lost node first."""
    journal = world.farebox.services.journal
    assert journal is not None
    before = {customer.account_id: customer.balance.posted for customer in (world.here, world.there)}
    with gated(world.farebox) as gate:
        _call_whose_node_is_lost(world, world.there, gate)
        with suppress(DatabaseUnavailable):
            world.farebox.run(journal.post())  # entries go into a new file from here on
        _call_whose_node_is_lost(world, world.here, gate)
    assert not journal.empty
    world.execute("DELETE FROM away WHERE bucket = $1", world.bucket(world.here))
    until(lambda: world.here.balance.posted < before[world.here.account_id], "the charge of the other is posted")
    assert not journal.empty
    world.bring_back()
    until(lambda: journal.empty, "the rest is posted")
    assert world.there.balance.posted < before[world.there.account_id]
    assert world.there.balance.held == world.here.balance.held == 0
    assert differences(world.farebox) == []


def test_due_work_is_found_without_the_lost_node_and_a_report_fails(world: World) -> None:
    database, sql = world.farebox.services.database, "SELECT account_id FROM balances WHERE bucket = ?"

    def available(connection: Connection) -> set[str]:
        return {account_id for (account_id,) in rows_available(connection, sql)}

    def everywhere(connection: Connection) -> set[str]:
        return {account_id for (account_id,) in rows_everywhere(connection, sql)}

    all_of_them = world.farebox.run(database.get(everywhere))
    assert {world.here.account_id, world.there.account_id} <= all_of_them
    world.take_away()
    found = world.farebox.run(database.get(available))
    assert world.here.account_id in found
    assert world.there.account_id not in found
    with pytest.raises(NodeUnavailable) as error:
        world.farebox.run(database.get(everywhere))
    assert error.value.node == "db1:5432"


def test_the_sum_of_cached_responses_is_left_until_all_nodes_are_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(periodic_jobs, "SUM_AGAIN_SECONDS", 0.1)
    world.execute("INSERT INTO cache_totals SELECT bucket, account_id, 1000 FROM balances")
    services, total = world.farebox.services, "SELECT sum(bytes)::bigint FROM {}"

    def sums() -> tuple[object, ...]:
        with engines.looking(services.settings) as connection:
            return tuple(connection.execute(total.format(of)).fetchone() for of in ("cache_sum", "real_cache_totals"))

    def wrong() -> bool:
        kept, totals = sums()
        return kept != totals

    assert wrong()
    before = sums()
    world.take_away()
    world.farebox.run(periodic_jobs._correct_sum(services))
    assert sums() == before
    world.bring_back()
    world.farebox.run(periodic_jobs._correct_sum(services))
    assert not wrong()


def test_the_audit_checks_the_rest_and_reports_what_was_not_checked(world: World, tmp_path: Path) -> None:
    world.take_away()
    (found,) = differences(world.farebox)
    assert f"in bucket {world.bucket(world.there)}" in found
    checked = farebox(tmp_path, "check", FAREBOX_DATABASE_URL=world.farebox.services.settings.database_url)
    assert checked.returncode == 1, checked.stderr
    line, outcome = checked.stdout.splitlines()
    assert line == (
        f"accounts in bucket {world.bucket(world.there)}: they were not checked, because their node of the database is "
        "unavailable"
    )
    assert outcome.startswith(
        "Checked the accounts outside of 1 bucket: the books balance. To check all, start the node"
    )


def test_what_needs_the_operator_is_shown_without_the_lost_node(world: World) -> None:
    account_id = world.here.account_id

    def give_up(connection: Connection) -> None:
        key = key_of(connection, account_id)
        add_delivery(connection, key.bucket, account_id, "n", "we_1", 1)
        for customer in (world.here, world.there):
            bucket = key_of(connection, customer.account_id).bucket
            add_notice(connection, bucket, customer.account_id, "n", "low_balance", {}, 1)
        connection.execute("UPDATE deliveries SET next_at = NULL WHERE bucket = ?", (key.bucket,))

    database = world.farebox.services.database
    world.farebox.run(database.write(give_up))
    operator = person(world.farebox, Role.OPERATOR, "")
    missing = "A database node is unavailable"
    assert missing not in operator.get("/ui/messages").text
    world.take_away()
    assert world.farebox.run(database.scan(lambda connection: count_given_up(connection, 100))) == 1
    for path in ("/ui/messages", "/ui/accounts"):
        page = operator.get(path)
        assert page.status_code == 200, path
        assert missing in page.text, path
    assert "1 delivery is scheduled again" in operator.submit("/ui/messages/failed")


def test_the_page_of_an_account_on_the_lost_node_says_that_a_form_may_have_been_carried_out(world: World) -> None:
    owner = person(world.farebox, Role.OWNER, world.there.account_id)
    world.take_away()
    page = owner.get("/ui/limits")
    assert page.status_code == 503
    assert int(page.headers["retry-after"]) > 0
    assert "<h1>The database is unavailable</h1>" in page.text
    assert "A node of the database is unavailable" in page.text
    assert "it may have been carried out" in page.text
