"""Citus is upgraded one node after another while calls run: nothing acknowledged is lost or doubled."""

import asyncio
import json
import os
import random
import time
from pathlib import Path

import pytest

from farebox.settings import load as load_settings
from farebox.storage.database import migrate_now
from tests import processes
from tests.citus.servers import DATABASE, PROGRAMS, started
from tests.engines import SQLITE_ONLY
from tests.failures.kit import SEED, Load, compare, new_installation, served, settled
from tests.postgres.server import PostgresServer

OLDER = os.environ.get("FAREBOX_TEST_CITUS_OLDER_BIN", "")
"""The programs of a PostgreSQL of the same major version, with an older Citus."""
TIMES = int(os.environ.get("FAREBOX_TEST_LOSSES", "1"))
BUCKETS = 8
CALLS = 40

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (PROGRAMS and OLDER), reason="FAREBOX_TEST_CITUS_OLDER_BIN names no PostgreSQL with Citus"),
    SQLITE_ONLY,
]


@pytest.mark.parametrize("turn", range(1, TIMES + 1))
async def test_citus_is_upgraded_one_node_after_another(tmp_path: Path, turn: int) -> None:
    with started(programs=OLDER) as nodes:
        migrate_now(load_settings({}, database_url=nodes.url, buckets=BUCKETS), citus=True)
        settings = {"buckets": BUCKETS, "database_timeout_ms": 10_000, "instance_timeout_ms": 2_000}
        installation = new_installation(tmp_path, nodes.url, accounts=24, **settings)
        load, before = Load(installation, random.Random(SEED)), _version(nodes.coordinator)
        with served(installation):
            calling = asyncio.ensure_future(load.run())
            await load.more(CALLS)
            began = time.monotonic()
            for server in (*nodes.workers, nodes.coordinator):
                await asyncio.to_thread(_upgrade, server)
                await load.more(CALLS)
            migrated = await asyncio.to_thread(processes.run, ["migrate"], env=installation.environment)
            assert migrated.returncode == 0, migrated.stdout + migrated.stderr
            seconds = time.monotonic() - began
            await load.more(CALLS)
            load.stopped = True
            await calling
            await settled(installation)
        await asyncio.to_thread(compare, installation, load)
        assert set(load.statuses) == {200, 503}, load.statuses
        assert before < min(map(_version, nodes.all))
        said = {"what": "upgrade_citus", "turn": turn, "seconds": round(seconds, 1), "acknowledged": len(load.complete)}
        said |= {"refused": load.statuses[503], "broken_off": load.unclear, "lost": 0, "doubled": 0, "check": "clean"}
        print(json.dumps(said), flush=True)


def _upgrade(server: PostgresServer) -> None:
    server.stop()
    server.binaries = Path(PROGRAMS)
    server.start()
    server.query("ALTER EXTENSION citus UPDATE", server.url_of(DATABASE))


def _version(server: PostgresServer) -> tuple[int, ...]:
    found = server.query("SELECT extversion FROM pg_extension WHERE extname = 'citus'", server.url_of(DATABASE))
    return tuple(map(int, found[0][0].replace("-", ".").split(".")))
