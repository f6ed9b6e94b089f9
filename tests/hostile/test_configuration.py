"""A change of one account's configuration does not evict other accounts' cached configuration in any process."""

import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from farebox.clock import SystemClock
from farebox.gateway import DEFAULT_GATEWAY, GatewayConfig
from farebox.model import AccessToken, Permission
from farebox.operator.administer import set_provider
from farebox.runtime.configuration import Configuration
from farebox.runtime.known_accounts import ACCOUNT_ENTRIES_MAX, ENTRIES_MAX, KnownAccount, KnownAccounts
from farebox.storage.accounts import add_account, add_token, revoke_token
from farebox.storage.config import CHANGES_KEPT, note_change
from farebox.storage.database import Database, open_database
from farebox.storage.gateways import GatewayRow, delete_gateway, put_gateway
from farebox.storage.sql import Connection, DatabaseUnavailable, rows
from farebox.vault import Vault
from tests.calls.kit import set_gateway
from tests.engines import ON_BOTH_ENGINES, TESTER, settings_for
from tests.http.support import GATEWAY_FIELDS, http
from tests.support import Customer, Farebox, running_farebox

pytestmark = ON_BOTH_ENGINES

CLOCK = SystemClock()
VAULT = Vault(bytes(32))
ACCOUNTS = ("acme", "globex")
T = TypeVar("T")


# --- through the API --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("configuration")) as served:
        yield served


def known(customer: Customer) -> KnownAccount:
    return customer.farebox.services.configuration.known(customer.account_id)


def test_a_change_evicts_only_the_cache_of_its_account(farebox: Farebox) -> None:
    busy, other = farebox.funded(), farebox.funded()
    set_gateway(busy, cache_ttl=0)
    for customer in (busy, other):
        assert customer.chat().status_code == 200
    services = farebox.services
    farebox.run(services.configuration.notice_changes())
    for customer in (busy, other):
        assert customer.chat().status_code == 200
    before, loads = known(other), services.configuration.loads
    assert before.gateways
    api, gateway = f"{busy.api_url}/ai-gateway", f"{busy.api_url}/ai-gateway/gateways/default"
    send = partial(http.request, headers=busy.headers)
    steps: list[tuple[str, str, Any]] = [
        ("PUT", gateway, GATEWAY_FIELDS | {"collect_logs": False}),
        ("PUT", f"{busy.api_url}/farebox/model-aliases/fast", {"targets": ["demo/demo-1"]}),
        ("POST", f"{api}/custom-providers", {"name": "Own", "slug": "own", "base_url": "https://api.example.com"}),
        ("DELETE", gateway, None),
    ]
    for method, url, body in steps:
        mine = known(busy)
        response = send(method, url, json=body)
        assert response.status_code == 200, (url, response.text)
        assert not mine.current, url
        assert before.current, url
    assert known(other) is before
    assert services.configuration.loads == loads
    assert busy.chat().status_code == 200  # the deleted gateway is created again
    reloaded = farebox.run(services.configuration.gateway(busy.account_id, DEFAULT_GATEWAY))
    assert reloaded is not None
    assert reloaded.collect_logs


# --- in another process -----------------------------------------------------------------------------------------------


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await open_database(settings_for(tmp_path))

    def fill(connection: Connection) -> None:
        for name in ACCOUNTS:
            add_account(connection, name, name, 1)
            token = AccessToken(f"of-{name}", name, "test", frozenset(Permission), 1, None, None)
            add_token(connection, token, VAULT.hash_token(f"fbx_{name}"))
            put_gateway(connection, GatewayRow(name, "mine", msgspec.json.encode(GatewayConfig()), 1, 1))

    await opened.write(fill)
    yield opened
    await opened.close()


async def cached(configuration: Configuration) -> list[tuple[object, object]]:
    """Token and gateway of each account as cached in the process."""
    return [
        (await configuration.token(f"fbx_{name}"), await configuration.gateway(name, "mine", create=False))
        for name in ACCOUNTS
    ]


async def test_a_committed_change_applies_although_the_database_is_unavailable(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await Configuration.load(database, VAULT, CLOCK)
    await cached(process)
    await database.write(lambda c: (revoke_token(c, "of-acme", 2), revoke_token(c, "of-globex", 2)))
    read, times = database.get, count(1)

    async def away_the_second_time(job: Callable[[Connection], T]) -> T:
        if next(times) == 2:  # the job for the first account's domains
            raise DatabaseUnavailable("away")
        return await read(job)

    monkeypatch.setattr(database, "get", away_the_second_time)
    await process.notice_own_change()
    assert [token for token, _ in await cached(process)] == [None, None]
    asked = next(times)
    await process.notice_changes()
    assert next(times) - asked > 2, "a failed read is repeated"


async def test_another_process_evicts_the_changed_account(database: Database) -> None:
    process = await Configuration.load(database, VAULT, CLOCK)
    (_, gateway), (token, theirs) = await cached(process)
    mine = process.known("acme")

    await database.write(lambda c: revoke_token(c, "of-acme", 2))
    await process.notice_changes()
    (revoked, _), others = await cached(process)
    assert (revoked, mine.current) == (None, False)
    assert others[0] is token
    assert others[1] is theirs

    await database.write(lambda c: delete_gateway(c, "acme", "mine"))
    assert (await cached(process))[0][1] == gateway  # the other process has not polled yet
    await process.notice_changes()
    (_, deleted), others = await cached(process)
    assert deleted is None
    assert others[1] is theirs
    assert process.loads == 1

    await database.write(lambda c: set_provider(c, VAULT, by=TESTER, name="openai", at=1, api_key="sk-new"))
    await process.notice_changes()
    assert not process.known("globex").gateways
    assert process.provider("openai").api_key == "sk-new"  # type: ignore[union-attr]
    assert process.loads == 2


async def test_a_process_that_missed_changes_reads_everything_again(database: Database) -> None:
    process = await Configuration.load(database, VAULT, CLOCK)

    def many(connection: Connection, number: int = CHANGES_KEPT) -> None:
        for _ in range(number):
            note_change(connection, "acme")

    for change, loads in (
        (many, 1),  # as many changes as are kept
        (partial(many, number=CHANGES_KEPT + 1), 2),
        (
            lambda connection: connection.execute("UPDATE config_version SET version = version + 1"),
            3,
        ),  # no change record
        (
            lambda connection: connection.execute("UPDATE config_version SET version = 3"),
            4,
        ),  # as after restoring a backup
    ):
        (_, (token, _)) = await cached(process)
        await database.write(change)
        await process.notice_changes()
        assert process.loads == loads
        assert ((await cached(process))[1][0] is token) == (loads == 1)
    assert len(await database.get(lambda c: rows(c, "SELECT 1 FROM config_changes"))) <= CHANGES_KEPT


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_accounts_cannot_evict_each_other() -> None:
    accounts = KnownAccounts()
    other, greedy = accounts.of("globex"), accounts.of("acme")
    accounts.keep(other, other.aliases, ("default", "fast"), None)
    for number in range(2 * ACCOUNT_ENTRIES_MAX):
        accounts.keep(greedy, greedy.aliases, ("default", str(number)), None)
        accounts.of(f"nobody-{number}")
    assert greedy.entries <= ACCOUNT_ENTRIES_MAX
    assert accounts.of("globex") is other
    assert other.aliases
    unknown = weakref.ref(accounts.of("nobody"))
    assert unknown() is None, "it stays cached"

    def fill(name: str) -> None:
        filled = accounts.of(name)
        for number in range(ACCOUNT_ENTRIES_MAX):
            accounts.keep(filled, filled.aliases, ("default", str(number)), None)

    keepers: list[Callable[[], None]] = [partial(fill, f"crowd-{n}") for n in range(ENTRIES_MAX // ACCOUNT_ENTRIES_MAX)]
    for keep in keepers:
        keep()
    assert not other.aliases, "all that were ever cached still are"
    assert other.current, "it has not changed"
