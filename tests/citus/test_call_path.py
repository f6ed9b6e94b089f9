"""A server with every option of a call switched on: no statement of its calls has more than one task, and none of its
commits has two phases."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from farebox.operator import administer
from farebox.runtime import last_uses
from farebox.runtime.response_cache import DatabaseStore
from farebox.storage.cached_responses import CacheBounds, CachedResponse, generation_prefix
from farebox.storage.postgres.database import PostgresDatabase
from farebox.storage.sql import Connection
from farebox.storage.stored_objects import StoredObject
from tests.calls.kit import differences, set_gateway, spend_rule
from tests.calls.test_policy_limits import add
from tests.calls.test_spend_rules import limits_of
from tests.citus.cluster import Cluster
from tests.citus.kit import CLOCK, IDS, customers
from tests.citus.statements import Statements
from tests.engines import TESTER
from tests.ledger.kit import slow_commands
from tests.support import Customer, Farebox
from tests.waiting import until

DOLLAR = 10**9
TIMES = 3
BODIES: list[dict[str, Any]] = [{"user": "me"}, {"user": "me", "stream": True}, {"user": "you"}]


def equip(customer: Customer) -> None:
    """Set up a gateway with a cache, budgets of rules and policies by token and by user, DLP and a rate limit."""
    hourly = {"window": 3600, "technique": "sliding", "token": {"mode": "partition"}}
    rules = limits_of(spend_rule("month", DOLLAR), spend_rule("token", DOLLAR, **hourly))
    set_gateway(customer, cache_ttl=600, spend_limits=rules, rate_limiting_limit=1000, rate_limiting_interval=60)
    add(customer, "company", DOLLAR)
    add(customer, "each", DOLLAR, "daily", actor="user:{user}", condition="user != 'root'")


def call(customer: Customer, text: str, body: dict[str, Any], *, skip: bool = False) -> str:
    """Make a call; its cache status. `skip`: bypass the cache."""
    headers = {"cf-aig-metadata": '{"team": "a"}', "cf-aig-skip-cache": "true" if skip else "false"}
    response = customer.chat(text, headers=headers, **body)
    assert response.status_code == 200, response.text
    status: str = response.headers.get("cf-aig-cache-status", "")
    return status


def store_objects(farebox: Farebox, everyone: list[Customer]) -> None:
    """Have all accounts concurrently record objects that a provider keeps for them."""
    at = CLOCK.now_ms()
    objects = [StoredObject(one.account_id, "default", "openai", "file", IDS.log_id(), "", at) for one in everyone]

    async def keep() -> None:
        await asyncio.gather(*(farebox.services.stored_objects.keep([one]) for one in objects))

    farebox.run(keep())


def store_responses(farebox: Farebox, everyone: list[Customer]) -> None:
    """Have all accounts concurrently store two responses each, with room for one; and then replace them."""
    store, at = DatabaseStore(farebox.services.database), CLOCK.now_ms() + 60_000
    names = [(one.account_id, farebox.run(_generation(farebox, one)), number) for one in everyone for number in (1, 2)]
    responses = [
        CachedResponse(account_id, "default", f"{generation}{number}", at + number, "text/plain", b"x")
        for account_id, generation, number in names
    ]
    for _ in range(TIMES):
        farebox.run(store.keep(responses, CacheBounds(responses[0].size, 2**30)))


async def _generation(farebox: Farebox, customer: Customer) -> str:
    gateway = await farebox.services.configuration.gateway(customer.account_id, "default")
    assert gateway is not None
    return generation_prefix(gateway.cache_generation)


@pytest.mark.usefixtures("kept_transactions")
def test_calls_use_one_node(cluster: Cluster, cluster_url: str, farebox: Farebox, statements: Statements) -> None:
    """Writes that cover many accounts need no two-phase commit either: cached responses, objects that a provider keeps,
    last uses of tokens."""
    assert farebox.services.database.health.is_cluster  # type: ignore[attr-defined]
    everyone = customers(farebox)
    for customer in everyone:
        equip(customer)
    farebox.run(last_uses.write(farebox.services))
    before, database = cluster.two_phase_commits(cluster_url), farebox.services.database
    assert isinstance(database, PostgresDatabase)
    slow = slow_commands(database.activity)
    statements.open = True
    with ThreadPoolExecutor(len(everyone)) as at_once:
        for _ in range(TIMES):
            for body in BODIES:
                assert set(at_once.map(partial(call, text="kept", body=body), everyone)) <= {"MISS", "HIT"}
                assert set(at_once.map(partial(call, text="not kept", body=body, skip=True), everyone)) == {"MISS"}
            store_objects(farebox, everyone)
    assert {call(customer, "kept", body) for customer in everyone for body in BODIES} == {"HIT"}
    until(lambda: not farebox.services.tasks.running("cached responses"))
    store_responses(farebox, everyone)
    farebox.run(last_uses.write(farebox.services))
    statements.open = False
    assert cluster.two_phase_commits(cluster_url) == before
    assert slow_commands(database.activity) == slow
    assert any("ledger_batch" in sql for sql in statements.seen)
    for table in ("cached_responses", "kept_objects", "last_uses"):
        assert any(f"INSERT INTO {table}" in sql for sql in statements.seen), table
    assert any("DELETE FROM cached_responses" in sql for sql in statements.seen)
    assert {sql: count for sql, count in statements.tasks(cluster_url).items() if count > 1} == {}
    assert differences(farebox) == []


@pytest.mark.usefixtures("kept_transactions")
def test_configuration_and_acts_use_two_phase_commits(cluster: Cluster, cluster_url: str, farebox: Farebox) -> None:
    """If the coordinator is lost, their writes on it are never lost while the account's rows are kept."""
    customer, services = customers(farebox)[0], farebox.services

    def grant(connection: Connection) -> None:
        at = CLOCK.now_ms()
        administer.grant(connection, IDS, by=TESTER, account_id=customer.account_id, amount=DOLLAR, at=at)

    before = cluster.two_phase_commits(cluster_url)
    set_gateway(customer, cache_ttl=60)
    configured = cluster.two_phase_commits(cluster_url)
    assert configured > before
    farebox.run(services.database.write(grant))
    assert cluster.two_phase_commits(cluster_url) > configured
    assert differences(farebox) == []
