"""LiteLLM's proxy: without a database, and with PostgreSQL, a virtual key and a budget, so that it accounts for spend.

Its database client (Prisma) downloads an engine from its own host. `engine.js` stands in for that engine, even where
the host can be reached, so that figures are comparable. The CPU of the stand-in is listed separately. The tables are
made by LiteLLM's own migrations. It logs nothing but errors.

Releases 1.107.* were compromised: they are never installed. The newest that resolves otherwise is taken.
"""

import asyncio
import contextlib
import http.client
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import asyncpg
from tests.postgres.server import PostgresError, start_postgres

from bench import machine
from bench.peers import install
from bench.peers.peer import PEERS, Peer, Served, await_health, finish, free_port, hand_over, running
from bench.served import Broken, Mock

NAME = "litellm"
VERSION = "1.106.2"
PINS = (f"litellm[proxy]=={VERSION}", "prisma==0.15.0")

BILLED = "litellm-postgres"
ENGINE_PINS = {
    "@prisma/client": "5.17.0",
    "@prisma/adapter-pg": "5.17.0",
    "prisma": "5.17.0",
    "pg": "8.13.1",
    "graphql": "16.9.0",
}
"""Prisma's Python client 0.15.0 requires 5.17.0."""
BILLED_STAMP = (*PINS, *(f"{name}@{version}" for name, version in ENGINE_PINS.items()))
ENGINE = Path(__file__).parent / "engine.js"

MASTER_KEY = "sk-bench-master"
BUDGET_USD = 1_000_000
GENERATE_SECONDS = 120.0

CONFIGURATION = """
model_list:
  - model_name: gpt-4o-mini
    litellm_params:
      model: openai/gpt-4o-mini
      api_base: http://127.0.0.1:{provider}/v1
      api_key: sk-bench
general_settings:
  master_key: {key}
litellm_settings:
  num_retries: 0
"""
ENVIRONMENT = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def _install() -> None:
    install.python_packages(NAME, PINS)
    install.stamp(NAME, PINS)


def _version() -> str | None:
    return VERSION if install.is_installed(NAME, PINS) else None


@contextlib.contextmanager
def _serve(folder: Path, mock: Mock) -> Iterator[Served]:
    with _proxy(folder, mock, {}) as served:
        yield served


@contextlib.contextmanager
def _proxy(folder: Path, mock: Mock, environment: dict[str, str]) -> Iterator[Served]:
    port = free_port()
    file = folder / "litellm.yaml"
    file.write_text(CONFIGURATION.format(provider=mock.port, key=MASTER_KEY))
    command: list[str | Path] = [PEERS / NAME / "venv" / "bin" / "litellm", "--config", file]
    command += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    with running(command, folder, **ENVIRONMENT, **environment) as process:
        served = Served(process.pid, port, headers=(f"authorization: Bearer {MASTER_KEY}",))
        await_health(process, served, folder, "/health/readiness")
        yield served


# With a database.


def _install_billed() -> None:
    """Prisma's Python client is generated into LiteLLM's environment, by Prisma's own program."""
    if _version() is None:
        _install()
    install.node_packages(BILLED, ENGINE_PINS)
    folder, site_packages = PEERS / BILLED, _site_packages()
    engine = _engine()
    shutil.copy(ENGINE, engine)
    engine.chmod(0o755)
    (folder / "home").mkdir()
    hand_over(folder / "home")
    hand_over(site_packages / "prisma")
    finish(
        ["node", folder / "node_modules" / "prisma" / "build" / "index.js", "generate", "--schema",
         site_packages / "litellm" / "proxy" / "schema.prisma"],
        folder / "home",
        seconds=GENERATE_SECONDS,
        PATH=f"{PEERS / NAME / 'venv' / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        PRISMA_CLI_QUERY_ENGINE_TYPE="binary",
        PRISMA_QUERY_ENGINE_BINARY=str(engine),
        PRISMA_SCHEMA_ENGINE_BINARY=str(engine),
    )  # fmt: skip
    install.stamp(BILLED, BILLED_STAMP)


def _billed_version() -> str | None:
    return VERSION if install.is_installed(BILLED, BILLED_STAMP) and _version() else None


@contextlib.contextmanager
def _serve_billed(folder: Path, mock: Mock) -> Iterator[Served]:
    try:
        postgres = start_postgres(durable=True)
    except PostgresError as error:
        raise Broken(f"PostgreSQL did not start: {error}") from error
    with postgres, asyncio.Runner() as runner:
        url = postgres.new_database()
        books = runner.run(asyncpg.connect(url))  # one connection for all polls: its CPU counts as PostgreSQL's
        runner.run(_migrate(books))
        database = {
            "DATABASE_URL": url,
            "DISABLE_SCHEMA_UPDATE": "true",
            "PRISMA_QUERY_ENGINE_BINARY": str(_engine()),
            "npm_config_offline": "true",  # or each start fetches Prisma's program to compare the schema
        }
        with _proxy(folder, mock, database) as proxy:
            key = _virtual_key(proxy.port)
            yield Served(
                proxy.pid,
                proxy.port,
                headers=(f"authorization: Bearer {key}",),
                apart={"postgres": postgres.pids()[0], "stand-in": _engine_pid(proxy.pid)},
                billed=lambda: runner.run(_spent(books)),
            )


async def _migrate(books: asyncpg.Connection) -> None:
    """Run LiteLLM's own migrations in order. Each file is sent as one message: some may not run in a transaction."""
    migrations = _site_packages() / "litellm_proxy_extras" / "migrations"
    for file in sorted(migrations.glob("*/migration.sql")):
        try:
            await books.execute(file.read_text())
        except asyncpg.exceptions.PostgresError as error:
            raise Broken(f"LiteLLM's migration {file.parent.name} failed: {error}") from error


def _virtual_key(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        headers = {"authorization": f"Bearer {MASTER_KEY}", "content-type": "application/json"}
        connection.request("POST", "/key/generate", json.dumps({"max_budget": BUDGET_USD}), headers)
        response = connection.getresponse()
        said = response.read()
    if response.status != 200:
        raise Broken(f"it made no virtual key: {said[:300].decode(errors='replace')}")
    key: str = json.loads(said)["key"]
    return key


async def _spent(books: asyncpg.Connection) -> int:
    usd = await books.fetchval('SELECT coalesce(sum(spend), 0) FROM "LiteLLM_VerificationToken"')
    return round(float(usd) * 10**9)


def _engine_pid(root: int) -> int:
    for pid in machine.tree(root):
        if str(_engine()) in Path(f"/proc/{pid}/cmdline").read_text():
            return pid
    raise Broken("it has not started its database engine")


def _engine() -> Path:
    return PEERS / BILLED / ENGINE.name


def _site_packages() -> Path:
    return next((PEERS / NAME / "venv" / "lib").glob("python*/site-packages"))


PEER = Peer(NAME, "LiteLLM proxy (Python), without a database", "nothing", _install, _version, _serve)
WITH_POSTGRES = Peer(
    BILLED,
    "LiteLLM proxy with PostgreSQL, virtual key, budget",
    "after the call",
    _install_billed,
    _billed_version,
    _serve_billed,
)
