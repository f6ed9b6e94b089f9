"""The life cycles of datasets and evaluations, with the official SDK; and what an evaluation computes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from farebox.calls import evaluations
from farebox.storage.sql import Connection, rows
from tests.calls.kit import price_of, set_gateway
from tests.engines import ON_BOTH_ENGINES, read_now
from tests.http.support import GATEWAY_FIELDS, errors, http, result
from tests.sdks import cloudflare
from tests.support import Customer
from tests.waiting import until

pytestmark = ON_BOTH_ENGINES


@pytest.fixture
def client(customer: Customer) -> Iterator[cloudflare.Cloudflare]:
    base_url = f"{customer.farebox.url}/client/v4"
    with cloudflare.Cloudflare(api_token=customer.token, base_url=base_url, max_retries=0) as client:
        yield client


def only(key: str, operator: str, *values: object) -> Any:
    return [{"key": key, "operator": operator, "value": list(values)}]


def url(customer: Customer, path: str) -> str:
    return f"{customer.api_url}/ai-gateway/gateways/default/{path}"


def test_the_life_of_a_dataset(customer: Customer, client: cloudflare.Cloudflare) -> None:
    account_id, datasets = customer.account_id, client.ai_gateway.datasets
    where: Any = {"account_id": account_id, "gateway_id": "lab"}
    client.ai_gateway.create(account_id=account_id, id="lab", **GATEWAY_FIELDS)
    made = datasets.create("lab", account_id=account_id, name="cheap", enable=True, filters=only("cost", "lt", 0.5))
    assert (made.name, made.enable, made.gateway_id) == ("cheap", True, "lab")
    assert made.filters[0].to_dict() == {"key": "cost", "operator": "lt", "value": [0.5]}
    assert datasets.get(made.id, **where).to_dict() == made.to_dict()
    changed = datasets.update(
        made.id,
        **where,
        name="red",
        enable=False,
        filters=[*only("model", "eq", "demo-1"), *only("success", "eq", True)],
    )
    assert (changed.id, changed.name, changed.enable, len(changed.filters)) == (made.id, "red", False, 2)
    assert changed.created_at == made.created_at
    second = datasets.create("lab", account_id=account_id, name="all", enable=True, filters=[])
    assert [each.id for each in datasets.list("lab", account_id=account_id, per_page=1)] == [second.id, made.id]
    assert [each.id for each in datasets.list("lab", account_id=account_id, enable=False)] == [made.id]
    assert [each.id for each in datasets.list("lab", account_id=account_id, name="all")] == [second.id]
    assert [each.id for each in datasets.list("lab", account_id=account_id, search="demo-1")] == [made.id]
    for name in ("all", "red"):
        with pytest.raises(cloudflare.BadRequestError, match="already exists"):
            datasets.create("lab", account_id=account_id, name=name, enable=True, filters=[])
    with pytest.raises(cloudflare.BadRequestError, match="already exists"):
        datasets.update(made.id, **where, name="all", enable=True, filters=[])
    assert datasets.delete(made.id, **where).name == "red"
    for missing in (
        lambda: datasets.get(made.id, **where),
        lambda: datasets.delete(made.id, **where),
        lambda: datasets.update(made.id, **where, name="x", enable=True, filters=[]),
        lambda: list(datasets.list("none", account_id=account_id)),
    ):
        with pytest.raises(cloudflare.NotFoundError) as gone:
            missing()
        assert gone.value.errors[0].code == 7002
    client.ai_gateway.delete("lab", account_id=account_id)
    client.ai_gateway.create(account_id=account_id, id="lab", **GATEWAY_FIELDS)
    assert list(datasets.list("lab", account_id=account_id)) == []


def test_wrong_datasets(customer: Customer) -> None:
    right = {"name": "a", "enable": True, "filters": []}
    for change, path in (
        ({"name": ""}, ["body", "name"]),
        ({"enable": "yes"}, ["body", "enable"]),
        ({"filters": None}, ["body", "filters"]),
        ({"filters": only("id", "eq", "x")}, ["body", "filters", 0, "key"]),
        ({"filters": only("cost", "neq", 1)}, ["body", "filters", 0, "operator"]),
        ({"filters": [{"key": "cost", "operator": "eq"}]}, ["body", "filters", 0, "value"]),
        ({"filters": only("cost", "eq", None)}, ["body", "filters", 0, "value", 0]),
        ({"filters": only("cost", "eq", 1) * 51}, ["body", "filters"]),
        ({"color": "red"}, ["body"]),
    ):
        response = http.post(url(customer, "datasets"), json=right | change, headers=customer.headers)
        assert response.status_code == 400, change
        (error,) = response.json()["errors"]
        assert (error["code"], error["path"]) == (7001, path)


def test_the_types_of_evaluations(customer: Customer, client: cloudflare.Cloudflare) -> None:
    types = client.ai_gateway.evaluation_types
    listed = {each.id: each for each in types.list(account_id=customer.account_id)}
    assert {name: each.mandatory for name, each in listed.items()} == {"cost": True, "speed": True, "feedback": False}
    by_name = types.list(account_id=customer.account_id, order_by="name", order_by_direction="asc", per_page=5)
    assert [each.name for each in by_name] == ["Cost", "Human feedback", "Speed"]


def test_an_evaluation_is_computed_over_the_logs_of_its_datasets(
    customer: Customer, client: cloudflare.Cloudflare
) -> None:
    account_id, ai = customer.account_id, client.ai_gateway
    tokens = (3, 5, 7)
    made = [customer.chat(headers={"x-demo": f"tokens={count}"}).headers["cf-aig-log-id"] for count in tokens]
    customer.chat(model="demo/none-such")
    for log_id, feedback in zip(made, (1, -1, 1), strict=True):
        ai.logs.edit(log_id, account_id=account_id, gateway_id="default", feedback=feedback)
    good = ai.datasets.create(
        "default", account_id=account_id, name="good", enable=True, filters=only("success", "eq", True)
    )
    long = ai.datasets.create(
        "default", account_id=account_id, name="long", enable=True, filters=only("tokens_out", "gt", 4)
    )
    unrated = ai.datasets.create(
        "default", account_id=account_id, name="none", enable=True, filters=only("created_at", "gt", "soon")
    )

    def done(name: str, dataset_ids: list[str], *types: str) -> Any:
        begun = ai.evaluations.create(
            "default", account_id=account_id, name=name, dataset_ids=dataset_ids, evaluation_type_ids=list(types)
        )
        assert (begun.processed, begun.total_logs, [each.result for each in begun.results]) == (
            False,
            0,
            [""] * len(begun.results),
        )
        assert {each.status_description for each in begun.results} == {"pending"}
        until(lambda: ai.evaluations.get(begun.id, account_id=account_id, gateway_id="default").processed, name)
        return ai.evaluations.get(begun.id, account_id=account_id, gateway_id="default")

    found = done("all", [good.id, long.id], "feedback")
    assert (found.total_logs, {each.id for each in found.datasets}) == (3, {good.id, long.id})
    values = {each.evaluation_type_id: each.result for each in found.results}
    assert float(values["cost"]) == pytest.approx(sum(price_of(2, count) for count in tokens) / 3 / 10**9)
    durations = [log.duration for log in ai.logs.list("default", account_id=account_id, success=True)]
    assert float(values["speed"]) == pytest.approx(sum(durations) / 3, rel=1e-9)
    assert float(values["feedback"]) == pytest.approx(200 / 3)
    assert {(each.status, each.status_description, each.total_logs) for each in found.results} == {(1, "completed", 3)}

    some = done("some", [long.id], "feedback", "cost")
    assert (some.total_logs, [each.evaluation_type_id for each in some.results]) == (2, ["cost", "speed", "feedback"])
    assert float(some.results[2].result) == 50
    empty = done("empty", [unrated.id])
    assert (empty.total_logs, [(each.status, each.result) for each in empty.results]) == (0, [(2, ""), (2, "")])

    ai.datasets.delete(long.id, account_id=account_id, gateway_id="default")
    assert ai.evaluations.get(some.id, account_id=account_id, gateway_id="default").datasets[0].name == "long"
    listed = [each.id for each in ai.evaluations.list("default", account_id=account_id, per_page=2)]
    assert listed == [empty.id, some.id, found.id]
    assert [each.name for each in ai.evaluations.list("default", account_id=account_id, search="om")] == ["some"]
    assert list(ai.evaluations.list("default", account_id=account_id, processed=False)) == []
    assert ai.evaluations.delete(some.id, account_id=account_id, gateway_id="default").name == "some"
    with pytest.raises(cloudflare.NotFoundError) as gone:
        ai.evaluations.get(some.id, account_id=account_id, gateway_id="default")
    assert gone.value.errors[0].code == 7002


def test_wrong_evaluations(customer: Customer, client: cloudflare.Cloudflare) -> None:
    datasets = client.ai_gateway.datasets
    on, off = (
        datasets.create("default", account_id=customer.account_id, name=str(enable), enable=enable, filters=[]).id
        for enable in (True, False)
    )
    right = {"name": "a", "dataset_ids": [on], "evaluation_type_ids": []}
    assert http.post(url(customer, "evaluations"), json=right, headers=customer.headers).status_code == 200
    for change, path, message in (
        ({}, ["body", "name"], "An evaluation with the name 'a' already exists"),
        ({"name": "b", "dataset_ids": []}, ["body", "dataset_ids"], ""),
        ({"name": "b", "dataset_ids": ["x"]}, ["body", "dataset_ids", 0], "does not exist"),
        ({"name": "b", "dataset_ids": [on, off]}, ["body", "dataset_ids", 1], "switched off"),
        ({"name": "b", "dataset_ids": [on] * 6}, ["body", "dataset_ids"], ""),
        ({"name": "b", "evaluation_type_ids": ["beauty"]}, ["body", "evaluation_type_ids", 0], "received 'beauty'"),
    ):
        response = http.post(url(customer, "evaluations"), json=right | change, headers=customer.headers)
        assert response.status_code == 400, change
        (error,) = response.json()["errors"]
        assert (error["code"], error["path"]) == (7001, path)
        assert message in error["message"]


def test_those_of_another_account_are_not_there(customer: Customer, client: cloudflare.Cloudflare) -> None:
    other = customer.farebox.funded("1")
    set_gateway(other, "default")
    dataset = client.ai_gateway.datasets.create(
        "default", account_id=customer.account_id, name="mine", enable=True, filters=[]
    )
    created = http.post(
        url(customer, "evaluations"),
        json={"name": "e", "dataset_ids": [dataset.id], "evaluation_type_ids": []},
        headers=customer.headers,
    )
    for path in (f"datasets/{dataset.id}", f"evaluations/{result(created)['id']}"):
        assert http.get(url(other, path), headers=other.headers).status_code == 404
        assert http.delete(url(other, path), headers=other.headers).status_code == 404
        assert http.get(url(customer, path), headers=other.headers).status_code == 403
    foreign = {"name": "e", "dataset_ids": [dataset.id], "evaluation_type_ids": []}
    response = http.post(url(other, "evaluations"), json=foreign, headers=other.headers)
    assert errors(response) == [(7001, f"The dataset '{dataset.id}' does not exist")]
    for path in ("datasets", "evaluations"):
        assert result(http.get(url(other, path), headers=other.headers)) == []


def test_an_evaluation_whose_worker_died_is_taken_up_by_another(
    customer: Customer, client: cloudflare.Cloudflare, monkeypatch: pytest.MonkeyPatch
) -> None:
    account_id, services = customer.account_id, customer.farebox.services
    customer.chat()
    dataset = client.ai_gateway.datasets.create("default", account_id=account_id, name="d", enable=True, filters=[])
    monkeypatch.setattr(evaluations, "LEASE_MS", 0)  # it is due again at once

    async def dies(*_: object) -> None:
        """The process dies after claiming it."""

    with monkeypatch.context() as broken:
        broken.setattr(evaluations, "_process", dies)
        begun = client.ai_gateway.evaluations.create(
            "default", account_id=account_id, name="e", dataset_ids=[dataset.id], evaluation_type_ids=[]
        )
        customer.farebox.run(evaluations.work(services))

    def processed(connection: Connection) -> Any:
        found = rows(connection, "SELECT processed, total_logs FROM evaluations WHERE evaluation_id = ?", (begun.id,))
        return tuple(found[0])

    until(lambda: read_now(services.settings, processed) == (1, 1))
    body = json.dumps(result(http.get(url(customer, f"evaluations/{begun.id}"), headers=customer.headers)))
    assert '"completed"' in body
