"""All nodes are lost and restored to one point in time: what was acknowledged before it is there, and the books
balance."""

import asyncio
import json
import os
import random
from pathlib import Path

import pytest

from farebox.settings import load as load_settings
from farebox.storage.database import migrate_now
from tests.citus.servers import PROGRAMS, started
from tests.engines import SQLITE_ONLY
from tests.failures.kit import SEED, Load, compare, new_installation, served, settled
from tests.postgres.server import PostgresServer

TIMES = int(os.environ.get("FAREBOX_TEST_LOSSES", "1"))
BUCKETS = 8
CALLS = 40
POINT = "drill"
ARCHIVE = {"archive_mode": "on", "archive_command": "mkdir -p ../archive && cp %p ../archive/%f"}
RESTORE = {"restore_command": "cp ../archive/%f %p", "recovery_target_name": POINT, "recovery_target_action": "promote"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAMS, reason="FAREBOX_TEST_CITUS_BIN names no PostgreSQL with Citus"),
    SQLITE_ONLY,
]


@pytest.mark.parametrize("turn", range(1, TIMES + 1))
async def test_a_cluster_is_restored_to_one_point(tmp_path: Path, turn: int) -> None:
    with started(settings=ARCHIVE) as nodes:
        migrate_now(load_settings({}, database_url=nodes.url, buckets=BUCKETS), citus=True)
        settings = {"buckets": BUCKETS, "database_timeout_ms": 10_000, "instance_timeout_ms": 2_000}
        installation = new_installation(tmp_path, nodes.url, accounts=8, **settings)
        for server in nodes.all:
            _back_up(server)
        load = Load(installation, random.Random(SEED))
        with served(installation):
            calling = asyncio.ensure_future(load.run())
            await load.more(CALLS)
            before = dict(load.complete)
            await asyncio.to_thread(nodes.query, f"SELECT citus_create_restore_point('{POINT}')")
            await load.more(CALLS)
            load.stopped = True
            await calling
        for server in nodes.all:
            server.query("SELECT pg_switch_wal()")
            server.query("CHECKPOINT")
            server.stop()  # its archiver archives what is there before it ends
        for server in nodes.all:
            _restore(server)
        restored = Load(installation, random.Random(SEED), complete=before, unclear=len(load.complete))
        with served(installation):
            await settled(installation)
        await asyncio.to_thread(compare, installation, restored)
        charges = await asyncio.to_thread(nodes.query, "SELECT count(*) FROM transfers WHERE kind = 'charge'")
        assert charges < [(len(load.complete),)], "changes after the point are there too"
        said = {"what": "restore", "turn": turn, "acknowledged_before": len(before), "lost": 0, "doubled": 0}
        print(json.dumps(said | {"check": "clean"}), flush=True)


def _back_up(server: PostgresServer) -> None:
    backup = str(server.folder / "backup")
    server.command("pg_basebackup", "--pgdata", backup, "--dbname", server.url, "--checkpoint=fast", "--no-sync")


def _restore(server: PostgresServer) -> None:
    server.data.rename(server.folder / "lost")
    (server.folder / "backup").rename(server.data)
    signal = server.data / "recovery.signal"
    signal.touch()
    if server.user is not None:
        os.chown(signal, server.user.pw_uid, server.user.pw_gid)
    server.settings = {**server.settings, **RESTORE}
    server.start()
