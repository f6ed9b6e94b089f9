"""What Citus requires of the schema and the statements, checked without a cluster: distribute.sql places every
table."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from farebox.clock import RandomIds, SystemClock
from farebox.ledger.commands import Grant, Hold, Outcome, Settle
from farebox.ledger.ledger import ledger_of
from farebox.ledger.rows import read_balance
from farebox.settings import load
from farebox.storage.accounts import add_account, find_account
from farebox.storage.buckets import bucket_numbers
from farebox.storage.database import Database, migrate_now, opened_for_command
from farebox.storage.postgres.database import PostgresDatabase
from farebox.storage.postgres.distributing import statements
from farebox.storage.sql import Connection
from farebox.storage.tables import tables
from tests.citus.cluster import CITUS
from tests.dbcopy.kit import farebox
from tests.engines import SQLITE_ONLY
from tests.postgres.server import PostgresServer, start_postgres

pytestmark = SQLITE_ONLY

DIRECTORY = {"accounts"}
"""Tables that have a bucket column, and are looked up without it."""
AMOUNT = 1_000
MINUTE = 60_000

# --- distribute.sql and the schema ------------------------------------------------------------------------------------


def _text() -> str:
    found = Path(__file__).parents[2] / "src/farebox/storage/postgres/distribute.sql"
    return found.read_text()


def _named(pattern: str) -> set[str]:
    found = re.findall(pattern, "\n".join(statements(16)))
    assert len(found) == len(set(found)), "a table is placed twice"
    return set(found)


DISTRIBUTED = _named(r"create_distributed_table\('(\w+)', 'bucket'")
REFERENCE = _named(r"create_reference_table\('(\w+)'\)")
KNOWN = _named(r"citus_add_local_table_to_metadata\('(\w+)'\)")
LOCAL = set(re.findall(r"\w+", next(iter(re.findall(r"^-- local: (.*)$", _text(), re.MULTILINE)))))


def test_every_table_has_one_place() -> None:
    assert {table.name for table in tables()} == DISTRIBUTED | REFERENCE | KNOWN | LOCAL
    assert len(DISTRIBUTED) + len(REFERENCE) + len(KNOWN) + len(LOCAL) == len(tables())


def test_tables_of_accounts_are_colocated_by_bucket() -> None:
    assert {table.name for table in tables() if "bucket" in table.columns} - DIRECTORY == DISTRIBUTED
    placed = [text for text in statements(16) if "create_distributed_table" in text]
    assert placed[0] == "SELECT create_distributed_table('balances', 'bucket', shard_count => 16)"
    assert all(text.endswith("colocate_with => 'balances')") for text in placed[1:])


@pytest.fixture(scope="module")
def migrated(postgres: PostgresServer) -> str:
    """A database with the schema, to inspect."""
    url = postgres.new_database()
    migrate_now(load({}, database_url=url))
    return url


def test_every_key_of_a_distributed_table_begins_with_the_bucket(postgres: PostgresServer, migrated: str) -> None:
    """Primary keys, unique constraints and unique indexes; Citus refuses others."""
    found = postgres.query(
        "SELECT c.relname, i.indexrelid::regclass::text, a.attname "
        "FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid "
        "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0] "
        "WHERE i.indisunique AND c.relnamespace = 'public'::regnamespace",
        migrated,
    )
    assert {table for table, _, _ in found} >= DISTRIBUTED
    assert [(table, index) for table, index, first in found if table in DISTRIBUTED and first != "bucket"] == []


def test_no_statement_uses_what_citus_does_not_support(postgres: PostgresServer, migrated: str) -> None:
    # Citus itself has such objects in the catalog; Farebox's tables are in the schema public.
    ours = "'public'::regnamespace"
    constraints = f"SELECT conname FROM pg_constraint WHERE contype IN ('f', 't', 'x') AND connamespace = {ours}"
    assert postgres.query(constraints, migrated) == []
    triggers = f"SELECT tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE c.relnamespace = {ours}"
    assert postgres.query(triggers, migrated) == []
    sequences = f"SELECT relname FROM pg_class WHERE relkind = 'S' AND relnamespace = {ours}"
    assert postgres.query(sequences, migrated) == []  # a SERIAL column


def test_the_ledgers_functions_take_the_bucket_first(postgres: PostgresServer, migrated: str) -> None:
    """distribute.sql identifies them by that: each function with an account parameter is one, and the others touch no
    table."""
    found = postgres.query(
        "SELECT proname, proargnames[1], provolatile::text, prosrc FROM pg_proc "
        "WHERE pronamespace = 'public'::regnamespace",
        migrated,
    )
    assert found, "there are no functions"
    for name, first, volatile, text in found:
        assert name.startswith("ledger_"), f"distribute.sql does not find {name}"
        assert first == "p_bucket" or volatile in "is", f"{name} must take p_bucket first"
        # Citus 13 crashes on an UPDATE that sets a column to a bare element of an array.
        assert not re.search(r"=\s*\w+\[array_position", text), f"{name}: write `0 + array[…]`"


async def test_a_job_locks_the_balance_that_it_reads(postgres: PostgresServer, postgres_url: str) -> None:
    database = await PostgresDatabase.open(postgres_url, timeout=30)
    await database.write(lambda c: add_account(c, "locked", "", 1))
    taken = "SELECT 1 FROM balances WHERE account_id = 'locked' FOR UPDATE NOWAIT"

    def free() -> bool:
        """Whether another session may lock it."""
        try:
            postgres.query(taken, postgres_url)
        except asyncpg.LockNotAvailableError:
            return False
        return True

    def job(connection: Connection) -> tuple[bool, bool]:
        before = in_a_thread(free)
        assert read_balance(connection, "locked") is not None
        return before, in_a_thread(free)

    def command() -> tuple[bool, bool]:
        with opened_for_command(load({}, database_url=postgres_url), writing=True) as connection:
            return job(connection)

    def in_a_thread(look: Callable[[], bool]) -> bool:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(look).result()

    assert await database.write(job) == (True, False)
    assert await asyncio.to_thread(command) == (True, False)
    await database.close()


@pytest.mark.skipif(bool(CITUS), reason="every database of the cluster has the extension")
def test_without_the_extension_it_is_refused(postgres_url: str, tmp_path: Path) -> None:
    setting = {"FAREBOX_DATABASE_URL": postgres_url}
    why = farebox(tmp_path, "migrate", "--citus", FAREBOX_BUCKETS="8", **setting)
    assert why.returncode == 1
    assert "CREATE EXTENSION citus" in why.stderr
    one = farebox(tmp_path, "migrate", "--citus", **setting)
    assert one.returncode == 1
    assert "FAREBOX_BUCKETS" in one.stderr
    file = farebox(tmp_path, "migrate", "--citus", FAREBOX_BUCKETS="8")
    assert file.returncode == 1


# --- what keeps a batch on one node: plain PostgreSQL shows it too ----------------------------------------------------


@pytest.fixture
async def logged(tmp_path: Path) -> AsyncIterator[tuple[PostgresServer, PostgresDatabase]]:
    """A server that logs every statement, and a database on it."""
    logging = {"log_statement": "all", "log_line_prefix": "'%c|'", "log_min_duration_statement": "-1"}
    with start_postgres(settings=logging) as server:
        database = await PostgresDatabase.open(server.new_database(), timeout=30)
        yield server, database
        await database.close()


async def test_a_batch_is_one_statement_outside_a_transaction(logged: tuple[PostgresServer, PostgresDatabase]) -> None:
    server, database = logged
    accounts = await _accounts(database, buckets=4)
    ledger = ledger_of(database, RandomIds(SystemClock()).log_id())
    before = server.log.stat().st_size
    await _calls(ledger, accounts, each=8)
    await ledger.close()
    said = server.log.read_bytes()[before:].decode()
    lines = [line for line in said.splitlines() if re.search(r"LOG:  (execute|statement)", line)]
    batches = [line for line in lines if "ledger_batch" in line]
    assert len(batches) >= len({bucket for _, bucket in accounts})
    lanes = {line.partition("|")[0] for line in batches}
    others = [line for line in lines if line.partition("|")[0] in lanes and "ledger_batch" not in line]
    begun = [line for line in others if re.search(r"BEGIN|COMMIT|PREPARE TRANSACTION|SAVEPOINT", line)]
    assert begun == [], "a lane opens no transaction: Citus would make a two-phase commit of it"
    buckets = [int(value) for value in re.findall(r"DETAIL:  [Pp]arameters: \$1 = '(\d+)'", said)]
    assert set(buckets) >= {bucket for _, bucket in accounts}


async def _accounts(database: Database, *, buckets: int) -> list[tuple[str, int]]:
    """Funded accounts in every bucket, with the bucket of each."""
    clock = SystemClock()
    ids, at = RandomIds(clock), clock.now_ms()
    found: list[tuple[str, int]] = []
    while {bucket for _, bucket in found} != set(bucket_numbers(buckets)):
        name = ids.account_id()
        account = await database.write(partial(add_account, account_id=name, name=name, at=at, buckets=buckets))
        grant = Grant(account_id=name, grant_id=ids.log_id(), amount=5 * AMOUNT, at=at)
        ledger = ledger_of(database, RandomIds(SystemClock()).log_id())
        assert (await ledger.do(grant)).ok
        await ledger.close()
        assert await database.get(partial(find_account, account_id=name)) == account
        found.append((name, account.bucket))
    return found


async def _calls(ledger: object, accounts: list[tuple[str, int]], *, each: int) -> dict[str, int]:
    """Make `each` concurrent calls for each account and settle all; account → number of admitted calls."""
    clock = SystemClock()
    ids, at = RandomIds(clock), clock.now_ms()

    async def call(name: str) -> bool:
        hold = Hold(account_id=name, hold_id=ids.log_id(), amount=AMOUNT, at=at, expires_at=at + MINUTE)
        verdict = await ledger.do(hold)  # type: ignore[attr-defined]
        if not verdict.ok:
            assert verdict.outcome in (Outcome.REFUSED, Outcome.HELD_ELSEWHERE)
            return False
        await asyncio.sleep(0.2)  # the other buckets are queried meanwhile
        settled = await ledger.do(Settle(account_id=name, hold_id=hold.hold_id, amount=AMOUNT, at=at))  # type: ignore[attr-defined]
        assert settled.ok
        return True

    names = [name for name, _ in accounts for _ in range(each)]
    admitted = await asyncio.gather(*map(call, names))
    return {name: sum(ok for other, ok in zip(names, admitted, strict=True) if other == name) for name, _ in accounts}
