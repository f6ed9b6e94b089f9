"""Processes take turns at searching the queues, and each finds at once what it has put there itself."""

import asyncio
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from farebox.calls import evaluations
from farebox.clock import SystemClock
from farebox.runtime import queue_search
from farebox.runtime.instances import FailureDetector
from farebox.runtime.queue_search import SKIPPED_MAX, QueueSearch
from farebox.storage import datasets
from tests.calls.kit import log_rows
from tests.exports.receiver import Receiver, receiving
from tests.http.support import GATEWAY_FIELDS, http, result
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import until

MANY = 10**9
both = pytest.mark.both_engines


@pytest.fixture(scope="module")
def classifier() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture(scope="module")
def served(engine: str, classifier: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """A server that counts far more processes than there are, so that its turn to search never comes."""

    async def nothing(_: FailureDetector) -> None: ...

    settings = {"classifier_url": f"{classifier.url}/classify", "classifier_key": "the-key"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FailureDetector, "check", nothing)
        patch.setattr(queue_search, "SKIPPED_MAX", MANY)
        with running_farebox(tmp_path_factory.mktemp("turns"), **settings) as farebox:
            search = farebox.services.queue_search
            search.processes = MANY
            until(lambda: search._skip > 1000, "the next turn is far away")
            yield farebox


@pytest.fixture
def customer(served: Farebox) -> Customer:
    return served.funded("5")


def gateways(customer: Customer, path: str = "") -> str:
    return f"{customer.api_url}/ai-gateway/gateways{path}"


@both
def test_a_process_finds_what_its_calls_put_into_a_queue(customer: Customer, classifier: Receiver) -> None:
    body = GATEWAY_FIELDS | {"id": "default", "log_classification": True}
    result(http.post(gateways(customer), json=body, headers=customer.headers))
    classifier.answers.append((200, {}, json.dumps({"task": "debugging", "model_fit": "overkill"}).encode()))
    customer.chat()
    until(lambda: [row.get("classification") for row in log_rows(customer)] != [None], "the call is classified")


@both
@pytest.mark.parametrize("failures", [0, 1])
def test_a_process_finds_what_its_jobs_put_into_a_queue(
    customer: Customer, failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the round that takes it from the queue fails."""
    due, left = datasets.due_evaluations, ["fail"] * failures

    def failing(*values: Any, **more: Any) -> Any:
        if left:
            left.pop()
            raise LookupError("a fault")
        return due(*values, **more)

    monkeypatch.setattr(evaluations, "due_evaluations", failing)

    def make(kind: str, **fields: Any) -> str:
        made = http.post(gateways(customer, f"/default/{kind}"), json=fields, headers=customer.headers)
        return str(result(made)["id"])

    dataset = make("datasets", name="d", enable=True, filters=[])
    evaluation = make("evaluations", name="e", dataset_ids=[dataset], evaluation_type_ids=[])
    path = gateways(customer, f"/default/evaluations/{evaluation}")
    until(lambda: result(http.get(path, headers=customer.headers))["processed"], "the evaluation is processed")
    assert not left


@pytest.mark.parametrize("processes", [1, 2, 4, 10, 50])
def test_together_the_processes_search_as_often_as_one_and_each_within_a_bound(
    processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_search, "SKIPPED_MAX", SKIPPED_MAX)  # `served` may be running
    ticks, searched = 2000, list[tuple[int, int]]()

    async def run() -> None:
        tick = 0

        def database(number: int) -> Any:
            async def get(_: Callable[..., Any]) -> None:
                searched.append((tick, number))

            return SimpleNamespace(take_queued=lambda: False, get=get)

        searches = [QueueSearch(database(number), SystemClock()) for number in range(processes)]
        for each in searches:
            each.processes = processes
        for tick in range(ticks):  # noqa: B007 - it is read by `get`
            for each in searches:
                await each.search()

    asyncio.run(run())
    for number in range(processes):
        own = [tick for tick, one in searched if one == number]
        assert max(later - tick for tick, later in zip([-1, *own], [*own, ticks], strict=True)) <= SKIPPED_MAX + 1
    share = max(1.0, processes / (SKIPPED_MAX / 2))
    assert 0.9 * ticks <= len(searched) <= 1.2 * share * ticks


async def test_a_search_that_fails_is_repeated_at_the_next_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failed(Exception): ...

    outcomes: list[type[Exception] | None] = [None, Failed, Failed, None]

    async def get(_: Callable[..., Any]) -> None:
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome

    queued = iter([False, True, False, False, False])
    database: Any = SimpleNamespace(take_queued=lambda: next(queued), get=get)
    monkeypatch.setattr(queue_search, "skipped_ticks", lambda _, *, at_most: at_most)
    search = QueueSearch(database, SystemClock())
    await search.search()  # the next turn is far away, but something is queued
    for _ in range(2):
        with pytest.raises(Failed):
            await search.search()
    await search.search()
    assert outcomes == []
    await search.search()  # skipped
