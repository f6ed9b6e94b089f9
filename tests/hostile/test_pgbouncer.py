"""A real PgBouncer between Farebox and PostgreSQL: it works with the configuration of docs/postgresql.md; in other
modes Farebox refuses to start."""

import contextlib
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from farebox.settings import load
from farebox.storage.database import migrate_now
from farebox.storage.postgres.connecting import connect
from farebox.storage.postgres.database import PostgresDatabase
from farebox.storage.sql import DatabaseUnavailable
from tests import engines
from tests.postgres.server import PostgresServer, wait_for
from tests.support import free_port, running_farebox

PROGRAM = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"

pytestmark = [
    pytest.mark.skipif(engines.CHOSEN == "sqlite", reason="needs PostgreSQL"),
    pytest.mark.skipif(not Path(PROGRAM).exists(), reason="pgbouncer is not installed"),
]

Pooled = Callable[..., str]


def documented() -> str:
    """The configuration on the documentation page."""
    page = (Path(__file__).parents[2] / "docs/postgresql.md").read_text()
    [block] = re.findall(r"```ini\n(.*?)```", page, re.DOTALL)
    return str(block)


@contextlib.contextmanager
def pgbouncer(postgres: PostgresServer, url: str, **changed: str) -> Iterator[str]:
    """Run a PgBouncer that is configured as documented, except for paths, ports and passwords; the URL of the database
    through it."""
    parts, port = urlsplit(url), free_port()
    text = documented()
    changed |= {"listen_port": str(port), "auth_type": "trust", "auth_file": "users.txt"}
    for name, value in changed.items():
        text, count = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
        assert count <= 1
        text += "" if count else f"{name} = {value}\n"
    place = f"farebox = host={parts.hostname} port={parts.port} dbname={parts.path[1:]}"
    text, count = re.subn(r"^farebox = .*$", place, text, flags=re.MULTILINE)
    assert count == 1
    with tempfile.TemporaryDirectory(prefix="farebox-pgbouncer-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "pgbouncer.ini").write_text(text)
        (folder / "users.txt").write_text(f'"{parts.username}" ""\n')
        user = ["-u", postgres.user.pw_name] if postgres.user else []
        log = (folder / "log").open("wb")
        process = subprocess.Popen([PROGRAM, *user, "pgbouncer.ini"], cwd=folder, stdout=log, stderr=log)
        try:
            wait_for(lambda: _listens(port) or process.poll() is not None, "PgBouncer listens", 20)
            assert process.poll() is None, (folder / "log").read_text()
            yield f"postgresql://{parts.username}@127.0.0.1:{port}/farebox"
        finally:
            process.kill()
            process.wait(20)
            log.close()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


async def test_session_mode_as_documented_has_all_that_farebox_sets(
    postgres: PostgresServer, postgres_url: str
) -> None:
    with pgbouncer(postgres, postgres_url) as url:
        session = await connect(url + "?search_path=pg_catalog", timeout=10)
        names = ("jit", "default_transaction_isolation", "idle_in_transaction_session_timeout", "timezone",
                 "tcp_keepalives_idle", "search_path")  # fmt: skip
        found = [await session.fetchval(f"SHOW {name}") for name in names]
        session.terminate()
    assert found == ["off", "read committed", "10s", "UTC", "10", "pg_catalog"]


def test_session_mode_as_documented_serves_calls(postgres: PostgresServer, tmp_path: Path) -> None:
    engines.use_engine("postgres")
    database = engines.new_database()
    with pgbouncer(postgres, database) as url:
        with running_farebox(tmp_path, database_url=url) as farebox:
            customer = farebox.funded("5")
            for _ in range(3):
                assert customer.chat(max_tokens=5).status_code == 200
            assert customer.balance.held == 0
            assert customer.balance.posted < 5 * 10**9
        assert migrate_now(load({}, database_url=url)).applied == []
    postgres.drop_database(database)


@pytest.mark.parametrize("changed", [{"server_round_robin": "0"}, {"server_round_robin": "1"}])
@pytest.mark.parametrize("mode", ["transaction", "statement"])
async def test_other_modes_are_refused_with_the_reason(
    postgres: PostgresServer, postgres_url: str, mode: str, changed: dict[str, str]
) -> None:
    with pgbouncer(postgres, postgres_url, pool_mode=mode, **changed) as url:
        for _ in range(3):  # the pool is empty at first, but not later
            with pytest.raises(DatabaseUnavailable, match="pool_mode = session"):
                await PostgresDatabase.open(url, timeout=10)
