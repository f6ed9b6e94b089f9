"""`farebox copy` copies everything in both directions, verifies it, and refuses what it cannot do."""

import os
import signal
import socket
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from farebox.clock import SystemClock
from farebox.operator.copying import CopyRefused, copy_installation
from farebox.storage.buckets import bucket_numbers, hashint4, shard_of
from farebox.storage.copy_mark import COPY_PROGRESS
from farebox.storage.dbcopy import Progress, Row
from farebox.storage.dbcopy.sqlite import SqliteSource, SqliteTarget
from farebox.storage.tables import Table, tables
from tests import processes
from tests.dbcopy.kit import (
    BODY_BYTES,
    SECRET_KEY,
    Sample,
    add_calls,
    ask,
    copied,
    environment,
    farebox,
    of_file,
    of_postgres,
    refused,
    url_of,
)
from tests.engines import SQLITE_ONLY
from tests.postgres.server import PostgresServer
from tests.support import Customer, running_farebox
from tests.waiting import SECONDS, pauses

pytestmark = SQLITE_ONLY  # each test chooses the engines of its databases

SLOW_CALLS = 100_000 if os.environ.get("FAREBOX_TEST_LONG") else 10_000


# --- what is copied ---------------------------------------------------------------------------------------------------


def test_every_table_of_either_engine_is_copied(postgres: PostgresServer, postgres_url: str, tmp_path: Path) -> None:
    """The list comes from the schema, so it includes new tables; a table created elsewhere fails here."""
    assert farebox(tmp_path, "migrate", FAREBOX_DATABASE_URL=postgres_url).returncode == 0
    catalog = postgres.query(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' "
        "AND table_name != 'schema_version' AND table_name NOT LIKE 'citus%'",  # Citus has views there
        postgres_url,
    )
    assert {(table, column) for table, column in catalog} == {
        (table.name, column) for table in tables() for column in table.columns
    }


def test_every_table_can_be_copied() -> None:
    for table in tables():
        assert table.key, f"{table.name} needs a primary key: it is copied in its order"
        assert not table.in_buckets or "account_id" in table.columns, table.name


def test_to_postgres_and_back(sample: Sample, postgres: PostgresServer, postgres_url: str, tmp_path: Path) -> None:
    before = of_file(sample.database)
    empty = {name for name, found in before.items() if not found}
    assert {
        "top_ups",
        "refunds",
        "documents",
        "calls",
        "holds",
        "top_up_rules",
        "operator_alarms",
    }.isdisjoint(empty)
    said = copied(sample.folder, url_of(sample.database), postgres_url)
    assert "secret.key" in said
    assert "journal" in said
    assert of_postgres(postgres, postgres_url) == before == of_file(sample.database)
    there = tmp_path / "there" / "farebox.db"
    copied(sample.folder, postgres_url, url_of(there))
    assert of_file(there) == before
    checked = farebox(tmp_path, "check", FAREBOX_DATABASE_URL=url_of(there))
    assert "the books balance" in checked.stdout, checked.stderr


def test_the_target_serves_the_same_data_as_the_source(
    sample: Sample, postgres: PostgresServer, postgres_url: str
) -> None:
    copied(sample.folder, url_of(sample.database), postgres_url, "--buckets", "4")
    with running_farebox(sample.folder, secret_key=SECRET_KEY, database_url=postgres_url, buckets=4) as served:
        assert ask(served.url, sample.account_id, sample.token, sample.log_ids) == sample.reported
        spent = served.balance(sample.account_id).posted
        response = Customer(served, sample.account_id, sample.token).chat("A call at the new address")
        assert response.status_code == 200, response.text
        assert served.balance(sample.account_id).posted < spent
    here = {"FAREBOX_DATABASE_URL": postgres_url, "FAREBOX_BUCKETS": "4"}
    ended = farebox(sample.folder, "check", **here)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    ended = farebox(sample.folder, "check", **here | {"FAREBOX_BUCKETS": "5"})
    assert ended.returncode == 1
    assert "the database has FAREBOX_BUCKETS=4, and here it is 5" in ended.stderr


def test_accounts_get_new_buckets_and_all_their_rows_follow(
    sample: Sample, postgres: PostgresServer, postgres_url: str
) -> None:
    for number in range(20):
        assert farebox(sample.folder, "account", "create", "--name", "more", "--id", f"more{number}").returncode == 0
    before = of_file(sample.database)
    copied(sample.folder, url_of(sample.database), postgres_url, "--buckets", "4")
    assert of_postgres(postgres, postgres_url) == before
    used = {bucket for (bucket,) in postgres.query("SELECT DISTINCT bucket FROM accounts", postgres_url)}
    assert used == set(bucket_numbers(4))
    for table in tables():
        if table.in_buckets:
            misplaced = postgres.query(
                f"SELECT 1 FROM {table.name} t JOIN accounts a ON a.account_id = t.account_id AND a.bucket != t.bucket",
                postgres_url,
            )
            assert not misplaced, table.name


def test_new_accounts_go_into_the_buckets_of_the_setting(
    postgres: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    setting = {"FAREBOX_DATABASE_URL": postgres_url, "FAREBOX_BUCKETS": "4"}
    for number in range(12):
        farebox(tmp_path, "account", "create", "--name", "new", "--id", f"new{number}", **setting)
    used = {bucket for (bucket,) in postgres.query("SELECT DISTINCT bucket FROM balances", postgres_url)}
    assert used <= set(bucket_numbers(4))
    assert len(used) > 1


@pytest.mark.parametrize("buckets", [1, 2, 3, 8, 24, 32, 100])
def test_each_bucket_owns_a_shard(buckets: int) -> None:
    numbers = bucket_numbers(buckets)
    assert numbers[0] == 0
    assert sorted(shard_of(number, buckets) for number in numbers) == list(range(buckets))


def test_the_hash_equals_postgresqls(postgres: PostgresServer) -> None:
    found = postgres.query("SELECT n, hashint4(n) FROM generate_series(0, 10000) n")
    assert all(hashint4(number) == hashed for number, hashed in found)


# --- cut off ----------------------------------------------------------------------------------------------------------


def test_a_killed_copy_resumes_without_duplicates(sample: Sample, postgres: PostgresServer, postgres_url: str) -> None:
    add_calls(sample.database, "busy", 20_000)
    before = of_file(sample.database)
    kills = 0
    for killed_after in (1, 5):
        kills += _killed(sample, postgres_url, partial(_has_come, postgres, postgres_url, killed_after))
    assert kills == 2
    ended = farebox(sample.folder, "balance", "--account", "busy", FAREBOX_DATABASE_URL=postgres_url)
    assert ended.returncode == 1
    assert "half copied" in ended.stderr
    assert "farebox copy" in ended.stderr
    serve = ["--data-dir", str(sample.folder), "serve", "--port", str(_free_port())]
    served = processes.run(serve, env=environment(FAREBOX_DATABASE_URL=postgres_url))
    assert "half copied" in served.stderr
    other = refused(sample.folder, url_of(sample.database), postgres_url, "--buckets", "7")
    assert "part of another copy" in other
    copied(sample.folder, url_of(sample.database), postgres_url)
    assert of_postgres(postgres, postgres_url) == before


def test_a_killed_copy_into_a_file_resumes(sample: Sample, tmp_path: Path) -> None:
    add_calls(sample.database, "busy", 20_000)
    there = tmp_path / "there.db"
    assert _killed(sample, url_of(there), lambda: _batches_in_file(there) >= 3)
    ended = farebox(sample.folder, "balance", "--account", "busy", FAREBOX_DATABASE_URL=url_of(there))
    assert "half copied" in ended.stderr
    copied(sample.folder, url_of(sample.database), url_of(there))
    assert of_file(there) == of_file(sample.database)


def test_a_source_that_changed_between_two_runs_is_detected(sample: Sample, tmp_path: Path) -> None:
    there = tmp_path / "there.db"

    def cut_off(what: str, *_: int) -> None:
        if what == "Copying calls":
            raise InterruptedError(what)

    with (
        closing(SqliteSource(sample.database)) as source,
        closing(SqliteTarget(there)) as target,
        pytest.raises(InterruptedError),
    ):
        copy_installation(source, target, origin="", buckets=1, now_ms=0, report=cut_off)
    assert farebox(sample.folder, "account", "create", "--name", "late", "--id", "-late").returncode == 0
    why = refused(sample.folder, url_of(sample.database), url_of(there))
    assert "do not agree" in why
    assert "accounts, rows" in why


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _killed(sample: Sample, target: str, when: Callable[[], bool]) -> bool:
    """Start a copy, and kill it when it has reached `when`; whether it was killed before its end."""
    arguments = ["--data-dir", str(sample.folder), "copy", "--from", url_of(sample.database), "--to", target]
    with tempfile.TemporaryFile() as output:
        process = processes.start(arguments, env=environment(), stdout=output, stderr=output)
        try:
            for pause in pauses("the copy came so far"):
                process.send_signal(signal.SIGSTOP)  # stopped, so that it makes no progress while we look
                if process.poll() is not None or when():
                    break
                process.send_signal(signal.SIGCONT)
                time.sleep(pause)
        finally:
            process.kill()
        status = process.wait(SECONDS)
        output.seek(0)
        assert (status, output.read()) == (-signal.SIGKILL, b"")
    return True


def _has_come(server: PostgresServer, url: str, batches: int) -> bool:
    return _batches(server, url) >= batches


def _batches(server: PostgresServer, url: str) -> int:
    """How many tables and batches have reached the target."""
    if server.query(f"SELECT to_regclass('{COPY_PROGRESS}')", url)[0][0] is None:
        return 0
    return int(
        server.query("SELECT count(*) / 5000 FROM (SELECT 1 FROM calls UNION ALL SELECT 1 FROM holds) x", url)[0][0]
    )


def _batches_in_file(path: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) / 5000 FROM calls").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


# --- refused ----------------------------------------------------------------------------------------------------------


def test_a_target_with_data_is_refused(sample: Sample, postgres_url: str, tmp_path: Path) -> None:
    farebox(tmp_path, "account", "create", "--name", "theirs", "--id", "theirs", FAREBOX_DATABASE_URL=postgres_url)
    why = refused(sample.folder, url_of(sample.database), postgres_url)
    assert "the target already has data" in why
    assert "accounts" in why
    ended = farebox(tmp_path, "balance", "--account", "theirs", FAREBOX_DATABASE_URL=postgres_url)
    assert ended.returncode == 0, ended.stderr  # and the target is unchanged


def test_a_complete_copy_is_not_copied_over(sample: Sample, tmp_path: Path) -> None:
    there = url_of(tmp_path / "there.db")
    copied(sample.folder, url_of(sample.database), there)
    assert "the target already has data" in refused(sample.folder, url_of(sample.database), there)


def test_a_served_file_is_refused_at_either_end(sample: Sample, tmp_path: Path) -> None:
    with running_farebox(sample.folder, secret_key=SECRET_KEY):
        assert "serves" in refused(sample.folder, url_of(sample.database), url_of(tmp_path / "there.db"))
        other = tmp_path / "other"
        assert farebox(other, "init").returncode == 0
        assert "serves" in refused(sample.folder, url_of(other / "farebox.db"), url_of(sample.database))


def test_living_processes_on_postgres_are_refused(
    sample: Sample, postgres: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    copied(sample.folder, url_of(sample.database), postgres_url)
    now = SystemClock().now_ms()
    postgres.query(f"INSERT INTO instances VALUES ('living', {now}, {now})", postgres_url)
    why = refused(sample.folder, postgres_url, url_of(tmp_path / "there.db"))
    assert "1 processes serve the source" in why
    postgres.query(f"UPDATE instances SET seen_at = {now - 60_000}", postgres_url)
    copied(sample.folder, postgres_url, url_of(tmp_path / "there.db"))


def test_a_connected_process_is_refused_whatever_its_clock_says(
    sample: Sample, postgres_url: str, tmp_path: Path
) -> None:
    """Its row is old because its clock is behind, or because it was suspended and may continue at any moment."""
    copied(sample.folder, url_of(sample.database), postgres_url)
    there = url_of(tmp_path / "there.db")
    with running_farebox(sample.folder, secret_key=SECRET_KEY, database_url=postgres_url) as served:
        long_ago = "UPDATE instances SET seen_at = 0"
        served.run(served.services.database.write(lambda connection: connection.execute(long_ago).fetchall()))
        assert "connected to it: stop them first" in refused(sample.folder, postgres_url, there)
    copied(sample.folder, postgres_url, there)


def test_a_source_whose_books_do_not_balance_is_not_moved(sample: Sample, tmp_path: Path) -> None:
    with closing(sqlite3.connect(sample.database)) as connection:
        connection.execute("UPDATE lots SET remaining = remaining - 1 WHERE remaining > 0")
        connection.commit()
    why = refused(sample.folder, url_of(sample.database), url_of(tmp_path / "there.db"))
    assert "the books of the source do not balance" in why


class _Faulty(SqliteTarget):
    """Corrupts the rows of one table during the copy."""

    def __init__(self, path: Path, table: str, damage: Callable[[Row], Row | None]) -> None:
        super().__init__(path)
        self._spoilt = table
        self._spoil = damage

    def add(self, table: Table, batch: Sequence[Row], progress: Progress) -> None:
        if table.name == self._spoilt:
            batch = [damaged for fields in batch if (damaged := self._spoil(fields)) is not None]
        super().add(table, batch, progress)


def _replaced(column: str, table: str, value: Callable[[Any], Any]) -> Callable[[Row], Row]:
    place = next(one for one in tables() if one.name == table).columns.index(column)
    return lambda fields: (*fields[:place], value(fields[place]), *fields[place + 1 :])


@pytest.mark.parametrize(
    ("table", "damage", "why"),
    [
        ("transfers", lambda _: None, "transfers, rows"),
        ("calls", _replaced("charge", "calls", lambda charge: charge + 1), "calls, sum of charge"),
        ("calls", _replaced("tokens_in", "calls", lambda tokens: 0), "calls, sum of tokens_in"),
        ("calls", _replaced("request", "calls", lambda body: body[:-1]), "calls, bytes of request"),
        ("calls", _replaced("response", "calls", lambda _: None), "calls, response present"),
        ("cards", _replaced("bucket", "cards", lambda _: 3), "cards, rows in the bucket of their account"),
    ],
)
def test_rows_lost_during_a_copy_are_found(
    sample: Sample, tmp_path: Path, table: str, damage: Callable[[Row], Row | None], why: str
) -> None:
    there = tmp_path / "there.db"
    with (
        closing(SqliteSource(sample.database)) as source,
        closing(_Faulty(there, table, damage)) as target,
        pytest.raises(CopyRefused) as refusal,
    ):
        copy_installation(source, target, origin="", buckets=1, now_ms=0, report=lambda *_: None)
    assert why in str(refusal.value)
    ended = farebox(sample.folder, "check", FAREBOX_DATABASE_URL=url_of(there))
    assert "half copied" in ended.stderr


@pytest.mark.parametrize(
    ("source", "target", "why"),
    [
        ("sqlite:///{folder}/nothing.db", "sqlite:///{folder}/there.db", "there is no database at"),
        ("sqlite:///{folder}/sample/farebox.db", "sqlite:///{folder}/sample/farebox.db", "the same database"),
        ("{folder}/sample/farebox.db", "sqlite:///{folder}/there.db", "write sqlite:///PATH"),
        ("sqlite:///{folder}/sample/farebox.db", "mysql://there", "write sqlite:///PATH"),
        ("sqlite:///{folder}/sample/farebox.db", "postgresql://127.0.0.1:1/there", "the database cannot be used now"),
    ],
)
def test_wrong_ends_are_refused(sample: Sample, tmp_path: Path, source: str, target: str, why: str) -> None:
    assert why in refused(sample.folder, source.format(folder=tmp_path), target.format(folder=tmp_path))
    assert not (tmp_path / "nothing.db").exists()


# --- a large one ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_rate_of_a_large_one(
    sample: Sample, postgres: PostgresServer, postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    add_calls(sample.database, "busy", SLOW_CALLS)
    begun = time.monotonic()
    copied(sample.folder, url_of(sample.database), postgres_url)
    took = time.monotonic() - begun
    ((calls,),) = postgres.query("SELECT count(*) FROM calls WHERE account_id = 'busy'", postgres_url)
    assert calls == SLOW_CALLS
    with capsys.disabled():
        print(
            f"\nfarebox copy: {SLOW_CALLS:,} calls with bodies of {BODY_BYTES} bytes, copied, compared and checked in "
            f"{took:.1f} s: {SLOW_CALLS / took:,.0f} calls/s"
        )
