"""A cluster that an older release distributed is upgraded in place, with rows in every table."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from farebox.settings import Settings, load
from farebox.storage.database import MigrationResult, migrate_now
from farebox.storage.postgres.distributing import statements
from farebox.storage.schema import OLDEST, VERSION
from tests.citus.cluster import BUCKETS, Cluster
from tests.citus.test_rules import DISTRIBUTED, KNOWN, REFERENCE
from tests.postgres.server import in_a_loop
from tests.storage import test_upgrade as of_one_database

PLACES = re.compile(r"create_(?:distributed|reference)_table\('(\w+)'")
SHARD = re.compile(r"_\d{6,}")
"""The suffix of shard names; each database has its own numbers."""


@pytest.fixture
def old(cluster: Cluster, tmp_path: Path) -> Iterator[Settings]:
    """A cluster of the oldest version, with two rows in each table."""
    url = cluster.new_database()
    settings = load({}, data_dir=str(tmp_path), database_url=url, buckets=BUCKETS)
    of_one_database.of_version(settings, OLDEST)
    in_a_loop(lambda: _distribute(url))
    of_one_database.execute(settings, *of_one_database.inserts(settings))
    yield settings
    cluster.drop_database(url)


async def _distribute(url: str) -> None:
    session = await asyncpg.connect(url)
    tables = of_one_database.old_columns()
    for statement in statements(BUCKETS):
        table = PLACES.search(statement)
        if table is not None and table[1] in tables:
            await session.execute(statement)
    await session.close()


def test_a_cluster_is_upgraded_in_place(cluster: Cluster, cluster_url: str, old: Settings) -> None:
    before = of_one_database.read_old(old)
    assert migrate_now(old) == MigrationResult(list(range(OLDEST + 1, VERSION + 1)), VERSION)
    kept = {
        table: [
            {column: value for column, value in row.items() if (table, column) not in of_one_database.DROPPED}
            for row in were
        ]
        for table, were in before.items()
        if table not in of_one_database.DROPPED_TABLES
    }
    assert {table: _read(cluster, old, table, list(were[0])) for table, were in kept.items()} == kept

    placed = cluster.query("SELECT logicalrelid::text, partmethod::text FROM pg_dist_partition", old.database_url)
    assert {name for name, method in placed if method == "h"} == DISTRIBUTED
    assert {name for name, method in placed if method == "n"} == REFERENCE | KNOWN
    new = load({}, database_url=cluster_url, buckets=BUCKETS)
    assert _described(old) == _described(new)


def _read(cluster: Cluster, settings: Settings, table: str, columns: list[str]) -> list[dict[str, Any]]:
    found = f"SELECT {', '.join(columns)} FROM {table} ORDER BY {', '.join(columns)}"
    return [dict(row) for row in cluster.query(found, settings.database_url)]


def _described(settings: Settings) -> dict[str, set[str]]:
    """Tables, indexes, constraints and functions, including those of shards: name without the shard's number →
    definitions."""
    found: dict[str, set[str]] = {}
    for name, what in of_one_database.described(settings).items():
        found.setdefault(SHARD.sub("_SHARD", name), set()).add(SHARD.sub("_SHARD", repr(what)))
    return found
