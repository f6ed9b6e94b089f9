"""The operator's classifier labels calls: the labels are kept with log rows, and summed up by task and model."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from farebox import periodic_jobs
from farebox.calls.exports import classify, delivering
from tests.calls.kit import log_rows
from tests.engines import ON_BOTH_ENGINES
from tests.exports.receiver import Receiver, receiving
from tests.http.support import GATEWAY_FIELDS, http, result, soon
from tests.support import Customer, Farebox, running_farebox

pytestmark = ON_BOTH_ENGINES

FIT: Any = {"task": "debugging", "model_fit": "overkill"}


@pytest.fixture(scope="module")
def classifier() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture(scope="module")
def farebox(engine: str, classifier: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    settings = {"classifier_url": f"{classifier.url}/classify", "classifier_key": "the-key"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(periodic_jobs, "TICK_SECONDS", 0.05)
        patch.setattr(periodic_jobs, "QUEUE_SECONDS", 0.05)
        with running_farebox(tmp_path_factory.mktemp("classifying"), **settings) as served:
            yield served


@pytest.fixture(autouse=True)
def _at_any_time(monkeypatch: pytest.MonkeyPatch, classifier: Receiver) -> None:
    monkeypatch.setattr(classify, "EVERY_MS", 0)
    monkeypatch.setattr(delivering, "_PAUSES_MS", (0, 0))
    classifier.answers.clear()
    classifier.requests.clear()


def configure(customer: Customer, **fields: Any) -> dict[str, Any]:
    body = GATEWAY_FIELDS | {"id": "default", "log_classification": True} | fields
    made: dict[str, Any] = result(
        http.post(f"{customer.api_url}/ai-gateway/gateways", json=body, headers=customer.headers)
    )
    return made


def change(customer: Customer, **fields: Any) -> Any:
    return http.patch(f"{customer.api_url}/ai-gateway/gateways/default", json=fields, headers=customer.headers)


def tasks(customer: Customer, **query: str) -> list[dict[str, Any]]:
    url = f"{customer.api_url}/farebox/gateways/default/tasks"
    return list(result(http.get(url, params=query, headers=customer.headers)))


def classified(customer: Customer) -> list[dict[str, Any] | None]:
    return [row.get("classification") for row in log_rows(customer)]


def answer(classifier: Receiver, *bodies: Any, status: int = 200) -> None:
    classifier.answers += [(status, {}, json.dumps(body).encode()) for body in bodies]


def test_calls_are_classified(customer: Customer, classifier: Receiver) -> None:
    configure(customer)
    answer(classifier, FIT, FIT, {"task": "drafting"})
    for number in range(1, 4):
        customer.chat(headers={"cf-aig-metadata": '{"team": "red"}'})
        assert soon(lambda: len(found := classified(customer)) == number and None not in found)  # noqa: B023
    assert classified(customer) == [{"task": "drafting", "model_fit": "could_not_assess"}, FIT, FIT]
    question = json.loads(classifier.requests[0].body)
    assert classifier.requests[0].headers["authorization"] == "Bearer the-key"
    assert question["metadata"] == {"team": "red"}
    assert json.loads(question["request"])["messages"][0]["content"] == "Hello there"
    assert json.loads(question["response"])["object"] == "chat.completion"
    assert (question["account"], question["gateway"]) == (customer.account_id, "default")
    rows = log_rows(customer)
    found = {one["task"]: one for one in tasks(customer)}
    assert found["debugging"]["calls"] == 2
    assert found["debugging"]["model_fit"] == "overkill"
    assert found["debugging"]["tokens_out"] == sum(row["tokens_out"] for row in rows[1:])
    assert found["debugging"]["cost"] == pytest.approx(sum(row["cost"] for row in rows[1:]), abs=1e-12)
    assert tasks(customer, end="2020-01-01") == []


def test_calls_without_kept_bodies_are_not_classified(customer: Customer, classifier: Receiver) -> None:
    configure(customer, cache_ttl=60)
    customer.chat(headers={"cf-aig-collect-log-payload": "false"})
    customer.chat(headers={"cf-aig-collect-log": "false"})
    customer.farebox.script("status=500")
    customer.chat()
    answer(classifier, FIT)
    customer.chat(headers={"cf-aig-cache-key": "k"})
    customer.chat(headers={"cf-aig-cache-key": "k"})  # a hit: no model was called
    assert soon(lambda: FIT in classified(customer))
    change(customer, log_classification=False)
    customer.chat()
    assert soon(lambda: len(log_rows(customer)) == 5)
    assert len(classifier.requests) == 1


def test_a_failed_classification_is_retried(customer: Customer, classifier: Receiver) -> None:
    configure(customer)
    answer(classifier, {}, {}, status=503)
    answer(classifier, FIT)
    customer.chat()
    assert soon(lambda: classified(customer) == [FIT])
    assert len(classifier.requests) == 3


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (422, b"{}"),
        (200, b'{"task": ""}'),
        (200, b'{"task": "x", "model_fit": "splendid"}'),
        (200, b"[]"),
        (200, b'{"task": "caf\xe9"}'),  # not UTF-8
        (200, b'{"task": "x", "why": ' + b"[" * 50_000),
    ],
)
def test_an_unclassifiable_call_is_not_retried(
    customer: Customer, classifier: Receiver, status: int, body: bytes
) -> None:
    configure(customer)
    classifier.answers.append((status, {}, body))
    customer.chat()
    assert soon(lambda: classified(customer) == [{"task": "unknown", "model_fit": "could_not_assess"}])
    assert len(classifier.requests) == 1


def test_classification_is_given_up_after_some_time(
    customer: Customer, classifier: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classify, "GIVE_UP_MS", -60_000)
    configure(customer)
    answer(classifier, {}, status=503)
    customer.chat()
    assert soon(lambda: classified(customer) == [{"task": "unknown", "model_fit": "could_not_assess"}])


def test_without_logs_there_is_no_classification(customer: Customer) -> None:
    made = configure(customer)
    assert made["log_classification"] is True
    assert result(change(customer, collect_logs=False))["log_classification"] is False
    for fields in ({"log_classification": True}, {"log_classification": True, "collect_logs": False}):
        refused = change(customer, **fields)
        assert refused.status_code == 400
        assert refused.json()["errors"][0]["path"] == ["body", "log_classification"]
        assert "collect_logs" in refused.json()["errors"][0]["message"]
    assert result(change(customer, log_classification=True, collect_logs=True))["log_classification"] is True


def test_feedback_and_classification_do_not_overwrite_each_other(customer: Customer, classifier: Receiver) -> None:
    configure(customer)
    answer(classifier, FIT)
    customer.chat()
    assert soon(lambda: len(log_rows(customer)) == 1)
    log_id = log_rows(customer)[0]["id"]
    url = f"{customer.api_url}/ai-gateway/gateways/default/logs/{log_id}"
    result(http.patch(url, json={"feedback": 1}, headers=customer.headers))
    assert soon(lambda: classified(customer) == [FIT])
    assert log_rows(customer)[0]["feedback"] == 1
