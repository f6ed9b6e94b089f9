"""Long calls on a cluster, the jobs that poll them, and what owners read meanwhile: no statement has more than one
task, and no commit has two phases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from farebox.model import Role
from farebox.operator import administer
from farebox.storage.postgres.database import PostgresDatabase
from farebox.storage.sql import Connection
from tests.calls.kit import differences, forget, set_provider, set_rates
from tests.calls.upstream import serving
from tests.citus.cluster import Cluster
from tests.citus.kit import customers
from tests.citus.statements import Statements
from tests.engines import TESTER
from tests.http.test_usage_report import by_value
from tests.ledger.kit import slow_commands
from tests.long_calls.kit import begin, running, spent
from tests.long_calls.openai_objects import COST, OpenAIObjects, lines, outcome, question
from tests.long_calls.test_predictions import VERSION, Provider
from tests.pages.people import person
from tests.pages.test_live import watching
from tests.sdks import openai
from tests.support import Customer, Farebox
from tests.waiting import until

BATCH = (1000 * 150 + 100 * 600) // 2
SECONDS = 2_500_000
"""Seconds of hardware, at a tenth of a cent each."""
QUEUED = 50_000_000
WRITTEN = ("long_calls", "kept_objects", "usage_values", "usage_marks")


@pytest.fixture
def objects() -> Iterator[OpenAIObjects]:
    with serving() as upstream:
        made = OpenAIObjects(upstream)
        upstream.response = made.answer
        yield made


@pytest.fixture
def predictions() -> Iterator[Provider]:
    with serving() as upstream:
        made = Provider(upstream)
        upstream.response = made.answer
        yield made


def equip(farebox: Farebox, objects: OpenAIObjects, predictions: Provider) -> None:
    """Set up providers of long calls, with prices."""
    set_provider(farebox, "openai", base_url=objects.upstream.url + "/v1")
    set_provider(farebox, "replicate", base_url=f"{predictions.upstream.url}/replicate")
    set_provider(farebox, "fal", base_url=f"{predictions.upstream.url}/{{host}}")
    set_rates(
        farebox,
        ("replicate", VERSION, {"compute_seconds": "0.001"}, 4),
        ("fal", "fal-ai/flux/dev", {"billed_units": "0.025"}, 4),
    )


def freeze(customer: Customer) -> None:
    farebox = customer.farebox
    services, at, who = farebox.services, farebox.services.clock.now_ms(), customer.account_id

    def job(connection: Connection) -> None:
        administer.set_frozen(connection, by=TESTER, account_id=who, frozen=True, reason="Chargebacks.", at=at)

    farebox.run(services.database.write(job))
    forget(farebox)


def predict(customer: Customer, predictions: Provider) -> None:
    """Predictions: one whose end the worker sees, one whose end its account sees, and one in a queue."""
    url = f"{customer.gateway_url}/replicate/predictions"
    body = {"version": VERSION, "input": {}}
    unseen, seen = (_asked("POST", url, customer, body)["id"] for _ in range(2))
    for each in (unseen, seen):
        predictions.finish(each, metrics={"predict_time": SECONDS / 1e6})
    assert _asked("GET", f"{url}/{seen}", customer)["status"] == "succeeded"
    queued = _asked("POST", f"{customer.gateway_url}/fal/queue/fal-ai/flux/dev", customer, {"prompt": "A harbour"})
    predictions.complete(queued["request_id"], units="2")


def _asked(method: str, url: str, customer: Customer, body: Any = None) -> Any:
    response = httpx.request(method, url, headers=customer.headers, json=body)
    assert response.is_success, response.text
    return response.json()


def ask_openai(customer: Customer, objects: OpenAIObjects) -> None:
    """A background response and a batch, whose ends the worker sees."""
    with openai.OpenAI(base_url=f"{customer.gateway_url}/openai", api_key=customer.token, max_retries=0) as client:
        objects.finish(begin(client).id)
        given = client.files.create(file=("in.jsonl", lines(question(0))), purpose="batch").id
        endpoint: Any = "/v1/chat/completions"
        batch = client.batches.create(input_file_id=given, endpoint=endpoint, completion_window="24h")
        objects.end_batch(batch.id, "completed", outcome(0))


@pytest.mark.usefixtures("kept_transactions")
def test_long_calls_use_one_node(
    cluster: Cluster,
    cluster_url: str,
    farebox: Farebox,
    statements: Statements,
    objects: OpenAIObjects,
    predictions: Provider,
) -> None:
    everyone = customers(farebox)
    equip(farebox, objects, predictions)
    predict(everyone[0], predictions)
    freeze(everyone[0])  # its running work continues
    frozen, *others = everyone
    for customer in others:
        assert customer.chat().status_code == 200  # creating its gateway is configuration, which uses two phases
    paid = {customer.account_id: spent(customer) for customer in others}
    owner = person(farebox, Role.OWNER, others[0].account_id)
    before, database = cluster.two_phase_commits(cluster_url), farebox.services.database
    assert isinstance(database, PostgresDatabase)
    slow = slow_commands(database.activity)
    with ExitStack() as stack:
        statements.open = True
        figures, calls = (watching(stack, owner, of) for of in ("overview", "calls"))
        first, no_calls = json.loads(figures.next), calls.next
        for customer in others:
            predict(customer, predictions)
            ask_openai(customer, objects)
        assert frozen.chat("no").json()["internalCode"] == 2954
        until(lambda: not any(map(running, everyone)), "the end of the long calls")
        assert calls.next != no_calls
        while json.loads(figures.next)["posted"] == first["posted"]:
            pass
        each = 2 * SECONDS + QUEUED + COST + BATCH
        assert {customer.account_id: (customer.balance.held, spent(customer)) for customer in others} == {
            account_id: (0, nanos + each) for account_id, nanos in paid.items()
        }
        assert [sum(nanos for _, nanos in by_value(customer, "token").values()) for customer in others] == [
            nanos + each for nanos in paid.values()
        ]
        statements.open = False
    assert (frozen.balance.held, spent(frozen)) == (0, 2 * SECONDS + QUEUED)
    assert cluster.two_phase_commits(cluster_url) == before
    assert slow_commands(database.activity) == slow
    for table in WRITTEN:
        assert any(f"INSERT INTO {table}" in sql for sql in statements.seen), table
    assert {sql: count for sql, count in statements.tasks(cluster_url).items() if count > 1} == {}
    assert differences(farebox) == []
