"""The life cycle of dynamic routes, with the official SDK: created, read, listed, renamed, versioned, deployed,
deleted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.calls.kit import set_gateway
from tests.engines import ON_BOTH_ENGINES
from tests.http.support import GATEWAY_FIELDS, http, result
from tests.sdks import cloudflare
from tests.support import Customer

pytestmark = ON_BOTH_ENGINES

START = {"id": "start", "type": "start", "outputs": {"next": {"elementId": "model"}}}
END = {"id": "end", "type": "end", "outputs": {}}


def model(element_id: str = "model", fallback: str | None = "end", **properties: Any) -> dict[str, Any]:
    outputs = {"success": {"elementId": "end"}} | ({"fallback": {"elementId": fallback}} if fallback else {})
    chosen = {"provider": "demo", "model": "demo-1", "retries": 0, "timeout": 0} | properties
    return {"id": element_id, "type": "model", "properties": chosen, "outputs": outputs}


PLAIN = [START, model(), END]


def to(first: str) -> dict[str, Any]:
    return START | {"outputs": {"next": {"elementId": first}}}


@pytest.fixture
def client(customer: Customer) -> Iterator[cloudflare.Cloudflare]:
    base_url = f"{customer.farebox.url}/client/v4"
    with cloudflare.Cloudflare(api_token=customer.token, base_url=base_url, max_retries=0) as client:
        yield client


def test_a_whole_life(customer: Customer, client: cloudflare.Cloudflare) -> None:
    account_id = customer.account_id
    routes = client.ai_gateway.dynamic_routing
    where: Any = {"account_id": account_id, "gateway_id": "support"}
    client.ai_gateway.create(account_id=account_id, id="support", **GATEWAY_FIELDS)
    elements: Any = PLAIN
    made = routes.create("support", account_id=account_id, name="triage", elements=elements)
    assert (made.name, made.gateway_id) == ("triage", "support")
    assert (made.version.active, made.version.is_valid) == ("true", True)
    assert made.deployment.version_id == made.version.version_id
    assert [element.id for element in made.elements] == ["start", "model", "end"]
    got = routes.get(made.id, **where)
    assert got.to_dict() == made.to_dict()

    renamed = routes.update(made.id, **where, name="triage-2")
    assert (renamed.success, renamed.route.name, renamed.route.account_tag) == (True, "triage-2", account_id)
    other = routes.create("support", account_id=account_id, name="triage", elements=elements)
    listed = routes.list("support", account_id=account_id)
    assert [route.id for route in listed.data.routes] == [made.id, other.id]
    assert (listed.success, listed.data.page, listed.data.per_page) == (True, 1, 20)
    assert [route.id for route in routes.list("support", account_id=account_id, page=2, per_page=1).data.routes] == [
        other.id
    ]
    assert routes.list("support", account_id=account_id, page=3, per_page=1).data.routes == []

    newer: Any = [START, model(model="demo-2"), END]
    version = routes.create_version(made.id, **where, elements=newer)
    again = routes.create_version(made.id, **where, elements=newer)
    assert version.to_dict()["version_id"] == again.to_dict()["version_id"]
    version_id = str(version.to_dict()["version_id"])
    versions = routes.list_versions(made.id, **where).data.versions
    assert [(each.version_id, each.active) for each in versions] == [
        (version_id, "false"),
        (made.version.version_id, "true"),
    ]
    assert routes.get_version(version_id, **where, id=made.id).active == "false"
    deployed = routes.create_deployment(made.id, **where, version_id=version_id)
    assert deployed.to_dict()["elements"] == version.to_dict()["elements"]
    routes.create_deployment(made.id, **where, version_id=version_id)  # repeating it changes nothing
    assert routes.get(made.id, **where).version.version_id == version_id
    assert routes.get_version(version_id, **where, id=made.id).active == "true"
    deployments = routes.list_deployments(made.id, **where).data.deployments
    assert [each.version_id for each in deployments] == [version_id, made.version.version_id]

    assert routes.delete(made.id, **where).name == "triage-2"
    for missing in (
        lambda: routes.get(made.id, **where),
        lambda: routes.delete(made.id, **where),
        lambda: routes.update(made.id, **where, name="x"),
        lambda: routes.list_versions(made.id, **where),
        lambda: routes.list_deployments(made.id, **where),
        lambda: routes.create_version(made.id, **where, elements=elements),
        lambda: routes.create_deployment(other.id, **where, version_id=version_id),
        lambda: routes.get_version(version_id, **where, id=other.id),
    ):
        with pytest.raises(cloudflare.NotFoundError) as gone:
            missing()
        assert gone.value.errors[0].code == 7005

    client.ai_gateway.delete("support", account_id=account_id)
    client.ai_gateway.create(account_id=account_id, id="support", **GATEWAY_FIELDS)
    assert routes.list("support", account_id=account_id).data.routes == []


def test_a_name_is_taken_once_per_gateway(customer: Customer) -> None:
    set_gateway(customer, "second")
    first = _create(customer, PLAIN, name="one")
    second = _create(customer, PLAIN, name="two")
    taken = _create(customer, PLAIN, name="one")
    assert (taken.status_code, taken.json()["errors"][0]["code"]) == (400, 7005)
    assert "already exists" in taken.json()["errors"][0]["message"]
    rename = http.patch(_url(customer, f"/{result(second)['id']}"), json={"name": "one"}, headers=customer.headers)
    assert rename.json()["errors"][0]["code"] == 7005
    same = http.patch(_url(customer, f"/{result(first)['id']}"), json={"name": "one"}, headers=customer.headers)
    assert same.json()["success"] is True
    assert _create(customer, PLAIN, gateway="second", name="one").status_code == 200
    assert _create(customer, PLAIN, gateway="none").json()["errors"][0]["code"] == 7002


def test_a_route_with_only_a_start_is_a_draft(customer: Customer) -> None:
    made = result(_create(customer, [to("somewhere")], name="draft"))
    assert (made["version"]["is_valid"], made["version"]["active"]) == (False, "true")
    assert customer.chat(model="dynamic/draft").status_code == 404
    versions = _url(customer, f"/{made['id']}/versions")
    whole = result(http.post(versions, json={"elements": PLAIN}, headers=customer.headers))
    deployments = _url(customer, f"/{made['id']}/deployments")
    refused = http.post(deployments, json={"version_id": made["version"]["version_id"]}, headers=customer.headers)
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (400, ["body", "version_id"])
    assert http.post(deployments, json={"version_id": whole["version_id"]}, headers=customer.headers).status_code == 200
    assert customer.chat(model="dynamic/draft").status_code == 200


def test_the_older_form_is_stored_in_the_newer_one(customer: Customer) -> None:
    elements = [
        to("who"),
        {
            "id": "who",
            "type": "conditional",
            "properties": {"condition": {"metadata.plan": {"$eq": "free"}}},
            "outputs": {"true": {"elementId": "few"}, "false": {"elementId": "model"}},
        },
        {
            "id": "few",
            "type": "rate_limit",
            "properties": {
                "limitType": "count",
                "key": "metadata.user",
                "limit": 2,
                "interval": 60,
                "technique": "sliding",
            },
            "outputs": {"success": {"elementId": "model"}},
        },
        model(fallback=None),
        {"id": "end", "type": "end"},
    ]
    made = result(_create(customer, elements, name="older"))
    assert made["elements"][1]["properties"] == {"conditions": {"metadata.plan": {"$eq": "free"}}}
    few = made["elements"][2]
    assert few["type"] == "rate"
    assert few["properties"] == {
        "key": "metadata.user",
        "limit": 2.0,
        "limitType": "count",
        "window": 60,
        "technique": "sliding",
    }
    assert made["elements"][4] == {"type": "end", "id": "end", "outputs": {}}


def conditional(conditions: Any) -> list[dict[str, Any]]:
    outputs = {"true": {"elementId": "model"}, "false": {"elementId": "end"}}
    return [to("if"), {"id": "if", "type": "conditional", "properties": {"conditions": conditions}, "outputs": outputs}]


def shares(*names: str) -> list[dict[str, Any]]:
    outputs = {name: {"elementId": "model"} for name in names}
    return [to("split"), {"id": "split", "type": "percentage", "outputs": outputs}]


def limit(**properties: Any) -> list[dict[str, Any]]:
    chosen = {"key": "", "limit": 5, "limitType": "count", "window": 60} | properties
    outputs = {"success": {"elementId": "model"}, "fallback": {"elementId": "end"}}
    return [to("limit"), {"id": "limit", "type": "rate", "properties": chosen, "outputs": outputs}]


DEEP: Any = {"metadata.a": 1}
for _ in range(12):
    DEEP = {"$and": [DEEP]}


# fmt: off
WRONG: tuple[tuple[Any, list[Any], str], ...] = (
    ([], [], "1 to 100 elements"),
    ([model(), END], [], "exactly one element of the type “start”"),
    ([START, START | {"id": "again"}, model(), END], [1, "type"], "exactly one element of the type “start”"),
    ([START, model(), model(), END], [2, "id"], "Two elements have the id “model”"),
    ([to("lost"), model(), END], [0, "outputs", "next", "elementId"], "no element with the id “lost”"),
    ([START, model(fallback="start"), END], [1, "outputs", "fallback", "elementId"], "back to the start"),
    ([START, model(fallback="b"), model("b", "model"), END], [1, "outputs"], "circle: model → b → model"),
    ([START, model(fallback="model"), END], [1, "outputs"], "circle: model → model"),
    ([START, model(), model("spare"), END], [2, "id"], "No path leads from the start to the element “spare”"),
    ([to("end"), END], [], "No path leads from the start to an element of the type “model”"),
    ([START, model() | {"outputs": {"success": {"elementId": "b"}}}, model("b"), END],
     [1, "outputs", "success", "elementId"], "A response that has begun is final"),
    ([START, model(), END | {"outputs": {"next": {"elementId": "model"}}}], [2, "outputs", "next"], "no outputs"),
    ([START, model(provider="nobody"), END], [1, "properties", "provider"], "no provider 'nobody'"),
    ([START, model(timeout=-1), END], [], "greater than or equal to 0"),
    ([START, model(retries=9), END], [], "less than or equal to 5"),
    ([START, model(temperature=1), END], [], "Unrecognized key(s) in object: 'temperature'"),
    ([START, {"id": "model", "type": "tool", "outputs": {}}, END], [], "'tool'"),
    ([START, {"id": "model"}, END], [], "Required: type"),
    ([*conditional({}), model(), END], [1, "properties", "conditions"], "at least one condition"),
    ([*conditional({"plan": "x"}), model(), END], [1, "properties", "conditions", "plan"], "Unknown field “plan”"),
    ([*conditional({"metadata.a": {"$regex": "x"}}), model(), END],
     [1, "properties", "conditions", "metadata.a", "$regex"], "Unknown operator “$regex”"),
    ([*conditional({"metadata.a": {"$in": "x"}}), model(), END],
     [1, "properties", "conditions", "metadata.a", "$in"], "$in takes an array"),
    ([*conditional({"$or": []}), model(), END], [1, "properties", "conditions", "$or"], "takes an array"),
    ([*conditional({"headers.Authorization": "x"}), model(), END],
     [1, "properties", "conditions", "headers.Authorization"], "holds a credential"),
    ([*conditional(DEEP), model(), END], [1, "properties", "conditions"], "nested more than 8 deep"),
    ([*shares("60%", "50%"), model(), END], [1, "outputs"], "add up to 110%"),
    ([*shares("60%"), model(), END], [1, "outputs"], "add “else” for the rest"),
    ([*shares("else"), model(), END], [1, "outputs"], "1 to 5 outputs"),
    ([*shares("most", "else"), model(), END], [1, "outputs", "most"], "Name each output like “10%”"),
    ([*limit(window=0), model(), END], [1, "properties", "window"], "length of the window"),
    ([*limit(limit=0.5), model(), END], [1, "properties", "limit"], "greater than or equal to 1"),
    ([*limit(limit=0), model(), END], [], "greater than 0"),
    ([*limit(limitType="cost", limit=1e10), model(), END], [1, "properties", "limit"], "less than or equal to"),
    ([*limit(key="user.id"), model(), END], [1, "properties", "key"], "Unknown field “user.id”"),
)
# fmt: on


def test_an_invalid_route_is_refused_and_the_fault_is_located(customer: Customer) -> None:
    for elements, path, message in WRONG:
        response = _create(customer, elements, name="wrong")
        assert response.status_code == 400, message
        errors = response.json()["errors"]
        assert all(error["code"] == 7001 for error in errors)
        assert errors[0]["path"][: 2 + len(path)] == ["body", "elements", *path]
        assert message in errors[0]["message"], errors
    assert _create(customer, [*limit(key="anything"), model(), END], name="right").status_code == 200


def test_wrong_names(customer: Customer) -> None:
    for body in ({"name": ""}, {"name": "a\nb"}, {"name": "a\0"}, {"name": 7}, {"name": "x" * 65}, {}):
        response = http.post(_url(customer), json={"elements": PLAIN} | body, headers=customer.headers)
        assert (response.status_code, response.json()["errors"][0]["path"]) == (400, ["body", "name"])


def test_routes_of_another_account_are_not_found(customer: Customer) -> None:
    other = customer.farebox.funded("1")
    made = result(_create(customer, PLAIN, name="mine"))
    for path in (f"/{made['id']}", f"/{made['id']}/versions", f"/{made['id']}/deployments"):
        own = http.get(_url(other, path), headers=other.headers)
        assert (own.status_code, own.json()["errors"][0]["code"]) == (404, 7005)
        assert http.get(_url(customer, path), headers=other.headers).status_code == 403
    assert http.get(_url(other), headers=other.headers).json()["data"]["routes"] == []
    assert other.chat(model="dynamic/mine").status_code == 404
    assert customer.chat(model="dynamic/mine").status_code == 200
    assert _create(customer, PLAIN, name="Route Name/ü").status_code == 200
    assert customer.chat(model="dynamic/Route Name/ü").status_code == 200


def _url(customer: Customer, path: str = "", gateway: str = "default") -> str:
    return f"{customer.api_url}/ai-gateway/gateways/{gateway}/routes{path}"


def _create(customer: Customer, elements: Any, *, gateway: str = "default", name: str = "a") -> httpx.Response:
    body = {"name": name, "elements": elements}
    return http.post(_url(customer, gateway=gateway), json=body, headers=customer.headers)
