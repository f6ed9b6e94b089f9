"""Policies: drafts and committed versions, validation, and their effect on calls of every kind."""

from typing import Any

import httpx
import pytest

from farebox.model import Permission
from farebox.operator import tokens
from farebox.policies.decide import POLICIES_MAX
from farebox.storage.sql import Connection
from tests.calls.kit import set_gateway, set_price, set_provider
from tests.engines import ON_BOTH_ENGINES
from tests.http.support import errors, http, result
from tests.sdks import anthropic, cloudflare, openai
from tests.support import Customer, Farebox

pytestmark = ON_BOTH_ENGINES

EVERYONE: dict[str, Any] = {
    "name": "Everyone", "actor": "company:all", "resource": "*", "condition": "true", "action": {"type": "no-limit"},
}  # fmt: skip
LIMIT = {"type": "limit", "amount": 1, "period": "monthly", "technique": "named-interval"}


def url(customer: Customer, rest: str = "") -> str:
    return f"{customer.api_url}/ai-gateway/gateways/default/policies{rest}"


def post(customer: Customer, body: Any, *, commit: bool = True, **changes: Any) -> httpx.Response:
    query = "?commit=true" if commit else ""
    return http.post(url(customer, query), json={**body, **changes}, headers=customer.headers)


def get(customer: Customer, rest: str = "") -> Any:
    return result(http.get(url(customer, rest), headers=customer.headers))


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    customer = farebox.funded("5")
    set_gateway(customer)
    return customer


def denied(response: httpx.Response) -> bool:
    if response.status_code == 200:
        return False
    body = response.json()
    assert (response.status_code, body["internalCode"], body["message"]) == (403, 2971, "Access denied by policy")
    assert (body["success"], body["error"]["message"]) == (False, "Access denied by policy")
    assert response.headers["x-should-retry"] == "false"
    return True


def test_a_policy_is_a_draft_until_it_is_committed(customer: Customer) -> None:
    blocking = {**EVERYONE, "name": "Nobody", "action": {"type": "block"}}
    made = post(customer, blocking, commit=False).json()
    assert (made["success"], made["committed"]) == (True, False)
    draft = made["result"]
    assert set(draft) == {*blocking, "id", "created_at", "updated_at"}
    assert draft["created_at"] < 10**10, "seconds"
    assert get(customer) == []
    assert get(customer, "?includeStaging=true") == [{**draft, "staging": True}]
    assert http.get(url(customer, f"/{draft['id']}"), headers=customer.headers).status_code == 404
    assert get(customer, f"/{draft['id']}?includeStaging=true") == {**draft, "uncommitted": True}
    assert not denied(customer.chat()), "drafts enforce nothing"
    change = http.put(url(customer, f"/{draft['id']}"), json={"name": "x"}, headers=customer.headers)
    assert errors(change)[0][0] == 7001, "only what was committed can be changed"
    done = http.post(url(customer, "/commit"), headers=customer.headers).json()
    assert (done["success"], done["result"]["committed"], done["result"]["failed"]) == (True, 1, 0)
    assert [policy["id"] for policy in get(customer)] == [draft["id"]]
    assert denied(customer.chat())

    staged = http.put(url(customer, f"/{draft['id']}"), json={"action": {"type": "no-limit"}}, headers=customer.headers)
    assert (staged.json()["committed"], staged.json()["result"]["name"]) == (False, "Nobody")
    assert denied(customer.chat())
    live, staging = get(customer, "?includeStaging=true")
    assert (live["action"], staging["action"], staging["staging"]) == ({"type": "block"}, {"type": "no-limit"}, True)
    put = http.put(url(customer, f"/{draft['id']}?commit=true"), json={"name": "Somebody"}, headers=customer.headers)
    assert (put.json()["committed"], put.json()["result"]["action"]) == (True, {"type": "no-limit"})
    assert not denied(customer.chat())
    assert len(get(customer, "?includeStaging=true")) == 1
    other = customer.farebox.funded("1")
    assert http.get(url(customer), headers=other.headers).status_code == 403
    assert http.delete(url(other, f"/{draft['id']}"), headers=other.headers).status_code == 404
    assert result(http.delete(url(customer, f"/{draft['id']}"), headers=customer.headers))["name"] == "Somebody"
    assert get(customer) == []


def test_invalid_policies_are_refused(customer: Customer) -> None:
    for changes, path in (
        ({"condition": "cf.user.id =="}, ["body", "condition"]),
        ({"condition": "cf.country == 'US'"}, ["body", "condition"]),
        ({"condition": "'x' in cf.user.groups"}, ["body", "condition"]),
        ({"condition": "cf.user.id"}, ["body", "condition"]),
        ({"condition": "[1].all(x, x == 1)"}, ["body", "condition"]),
        ({"condition": "token.name.matches('(a+)+b')"}, ["body", "condition"]),
        ({"condition": "(" * 100 + "true" + ")" * 100}, ["body", "condition"]),
        ({"condition": "true" + " " * 500}, ["body", "condition"]),
        ({"actor": "user:{cf.user.groups}"}, ["body", "actor"]),
        ({"actor": "user:{metadata.a"}, ["body", "actor"]),
        ({"resource": {}}, ["body", "resource"]),
        ({"resource": {"provider": "opneai"}}, ["body", "resource", "provider"]),
        ({"resource": {"models": "x"}}, ["body", "resource"]),
        ({"resource": "all"}, ["body", "resource"]),
        ({"action": {**LIMIT, "amount": 0}}, ["body", "action", "amount"]),
        ({"action": {**LIMIT, "technique": "sliding"}}, ["body", "action", "technique"]),
        ({"action": {**LIMIT, "period": "yearly"}}, ["body", "action", "period"]),
        ({"action": {"type": "no-limit", "except": True}}, ["body", "action"]),
        ({"colour": "red"}, ["body"]),
    ):
        response = post(customer, EVERYONE, **changes)
        assert response.status_code == 400, changes
        assert (errors(response)[0][0], response.json()["errors"][0]["path"]) == (7001, path), response.text
    said = errors(post(customer, EVERYONE, condition="cf.country == 'US'"))[0][1]
    assert "undeclared reference to 'cf.country'" in said
    for resource, received in ((["*"], "array"), ("all", "'all'")):
        (error,) = errors(post(customer, EVERYONE, resource=resource))
        assert error[1].endswith(f"Expected '*' | object, received {received}")
    assert http.post(url(customer, "?commit=yes"), json=EVERYONE, headers=customer.headers).status_code == 400
    assert post(customer, {"name": "x"}).status_code == 400
    assert get(customer, "?includeStaging=true") == []
    gone = url(customer).replace("/default/", "/none/")
    assert http.post(gone, json=EVERYONE, headers=customer.headers).status_code == 404
    for _ in range(POLICIES_MAX):
        assert post(customer, EVERYONE, commit=False).status_code == 200
    assert errors(post(customer, EVERYONE))[0][0] == 7001


def test_blocks_win_and_calls_without_a_match_are_refused(customer: Customer) -> None:
    farebox = customer.farebox
    post(customer, EVERYONE, name="Demo", resource={"model": "demo/demo-*"})
    assert not denied(customer.chat())
    assert denied(customer.chat(model="demo/gold"))
    set_provider(farebox, "openai")
    set_price(farebox, "openai", "gpt-x")
    assert denied(customer.chat(model="openai/gpt-x"))
    post(customer, EVERYONE, name="Others", resource={"provider": ["openai"]})
    assert not denied(customer.chat(model="openai/gpt-x"))
    named = {**EVERYONE, "action": {"type": "block"}, "condition": "metadata.team == 'red' && cf.user.id != ''"}
    post(customer, named, name="Red", resource={"model": "gpt-*"})
    red = {"cf-aig-metadata": '{"team": "red"}'}
    blue = {"cf-aig-metadata": '{"team": "blue"}'}
    assert denied(customer.chat(model="openai/gpt-x", headers=red))
    assert not denied(customer.chat(model="openai/gpt-x", headers=blue))
    assert not denied(customer.chat(headers=red))
    assert denied(customer.chat(model="openai/gpt-x")), "a block that reads a value that the call does not have"
    assert denied(customer.chat(model="openai/gpt-x", headers={"cf-aig-metadata": '{"team": {"x": 1}}'}))
    twice = b'{"model": "demo-1", "model": "gold", "messages": [{"role": "user", "content": "Hi"}]}'
    native = f"{customer.gateway_url}/demo/v1/chat/completions"
    sent = http.post(native, content=twice, headers={**customer.headers, "content-type": "application/json"})
    refused = sent.status_code, sent.json()["internalCode"]
    assert refused == (400, 2901), "it is unknown which of the two the provider uses"
    nothing = http.get(f"{customer.gateway_url}/demo/v1/models", headers=customer.headers)
    assert nothing.status_code != 403, "listing models is not a call of a model"


def test_an_allowlist_and_conditions_that_cannot_be_evaluated(customer: Customer) -> None:
    post(customer, EVERYONE)
    allowed = {**EVERYONE, "action": {"type": "block", "except": True}, "condition": "metadata.role == 'intern'"}
    post(customer, allowed, name="Interns", resource={"model": ["demo/demo-1", "demo/tiny-*"]})
    intern = {"cf-aig-metadata": '{"role": "intern"}'}
    assert not denied(customer.chat(headers=intern))
    assert denied(customer.chat(model="demo/gold", headers=intern))
    assert denied(customer.chat(model="demo/gold")), "it is unknown whether the caller is an intern"
    assert not denied(customer.chat(model="demo/demo-1"))
    post(customer, EVERYONE, name="Odd", condition="metadata.role.startsWith('x')")
    assert denied(customer.chat(headers={"cf-aig-metadata": '{"role": 7}'})), "a wrong type: refused, not admitted"
    assert not denied(customer.chat(headers={"cf-aig-metadata": '{"role": "y"}'}))
    assert denied(customer.chat(headers={"cf-aig-metadata": '{"role": "%s"}' % ("y" * 300)})), "too long to be read"


def test_actors_of_calls(customer: Customer, farebox: Farebox) -> None:
    """By the access token, which cannot be forged, or by values of the request."""
    alice, bob = token_named(customer, "alice@example.com"), token_named(customer, "build server")
    post(customer, EVERYONE, name="Domain", condition="cf.user.email.endsWith('@example.com')")
    assert not denied(customer.chat(headers=alice))
    assert denied(customer.chat(headers=bob)), "its name is not an e-mail address"
    post(customer, EVERYONE, name="Servers", condition="token.name in ['build server', 'x']")
    assert not denied(customer.chat(headers=bob))
    assert denied(customer.chat(user="mallory"))
    post(customer, EVERYONE, name="Users", condition="user == 'carol'")
    assert not denied(customer.chat(user="carol"))
    assert denied(customer.chat(user="mallory"))
    post(customer, EVERYONE, name="Ids", actor="user:{metadata.user_id}")
    assert denied(customer.chat()), "an actor that is not resolved matches nothing"
    assert not denied(customer.chat(headers={"cf-aig-metadata": '{"user_id": 5}'}))


def token_named(customer: Customer, name: str) -> dict[str, str]:
    services, account_id, at = customer.farebox.services, customer.account_id, 0

    def create(connection: Connection) -> tokens.NewToken:
        return tokens.create_token(
            connection, services.ids, services.vault, account_id=account_id, permissions=[*Permission], at=at, name=name
        )

    return {"authorization": f"Bearer {customer.farebox.run(services.database.write(create)).secret}"}


def test_steps_and_cached_responses_are_judged_too(customer: Customer) -> None:
    """A refused step falls back to the next; a caller that may not call the model does not get a cached response
    either."""
    set_gateway(customer, cache_ttl=3600)
    metadata = {"cf-aig-metadata": '{"team": "red"}'}
    assert customer.chat().headers["cf-aig-cache-status"] == "MISS"
    assert customer.chat(headers=metadata).headers["cf-aig-cache-status"] == "HIT"
    post(customer, EVERYONE)
    blocked = {**EVERYONE, "action": {"type": "block"}, "condition": "has(metadata.team) && metadata.team == 'red'"}
    post(customer, blocked, resource={"model": "demo/demo-1"})
    assert customer.chat().headers["cf-aig-cache-status"] == "HIT"
    assert denied(customer.chat(headers=metadata))
    set_price(customer.farebox, "demo", "demo-2")
    steps = [
        {"provider": "demo", "endpoint": "v1/chat/completions", "headers": metadata, "query": ask(model)}
        for model in ("demo-1", "demo-2")
    ]
    universal = http.post(customer.gateway_url, json=steps, headers={**customer.headers, **metadata})
    assert (universal.status_code, universal.headers["cf-aig-step"]) == (200, "1")
    universal = http.post(customer.gateway_url, json=steps[:1], headers={**customer.headers, **metadata})
    assert (universal.status_code, universal.json()["errors"][0]["code"]) == (403, 2971)


def ask(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hi"}]}


def test_official_clients_show_the_refusal(customer: Customer) -> None:
    post(customer, EVERYONE, action={"type": "block"})
    with openai.OpenAI(base_url=f"{customer.gateway_url}/compat", api_key=customer.token) as client:
        with pytest.raises(openai.PermissionDeniedError) as refused:
            client.chat.completions.create(**ask("demo/demo-1"))
        assert refused.value.code == "policy_denied"
        assert "Access denied by policy" in str(refused.value)
    rest = f"{customer.farebox.url}/client/v4/accounts/{customer.account_id}/ai"
    with anthropic.Anthropic(base_url=rest, auth_token=customer.token, api_key=None) as client:
        with pytest.raises(anthropic.PermissionDeniedError) as denial:
            client.messages.create(**ask("demo/demo-1"), max_tokens=5)
        assert denial.value.response.json()["error"]["type"] == "permission_error"
    with cloudflare.Cloudflare(base_url=f"{customer.farebox.url}/client/v4", api_token=customer.token) as client:
        path = f"/accounts/{customer.account_id}/ai-gateway/gateways/default/policies"
        found = client.get(path, cast_to=dict[str, Any])
        assert [policy["name"] for policy in found["result"]] == ["Everyone"]
        with pytest.raises(cloudflare.BadRequestError, match="Invalid CEL expression"):
            client.post(path, cast_to=dict[str, Any], body={**EVERYONE, "condition": "x"})


def test_a_simulation_tells_the_owner_what_would_happen(customer: Customer) -> None:
    def simulate(**body: Any) -> Any:
        response = http.post(
            url(customer, "/simulate"), json={"model": "demo/demo-1", **body}, headers=customer.headers
        )
        return result(response)

    assert simulate()["evaluation"] == {"decision": "no-limit", "buckets": [], "matched": []}
    post(customer, EVERYONE, name="Spend cap", action=LIMIT)
    post(customer, EVERYONE, name="Alice", actor="user:{cf.user.email}", action={**LIMIT, "amount": 2}, commit=False)
    post(customer, EVERYONE, name="Bob", actor="user:{cf.user.email}", action={**LIMIT, "amount": 3}, commit=False)
    one = simulate()
    assert (one["evaluation"]["decision"], one["enforcement"], one["policiesEvaluated"]) == (
        "check_limits", {"allowed": True}, 3,
    )  # fmt: skip
    assert [bucket["bucket"] for bucket in one["evaluation"]["buckets"]] == ["company:all"]
    two = simulate(identity={"cf": {"user": {"email": "a@x.org"}}}, bucketUsage={"Bob": {"spent": 3}})
    assert two["evaluation"]["matched"] == ["Spend cap", "Alice", "Bob"]
    assert two["enforcement"] == {
        "allowed": False, "reason": "limit_exceeded", "bucket": "user:a@x.org", "spent": 3, "limit": 3,
        "policyName": "Bob",
    }  # fmt: skip
    post(
        customer, EVERYONE, name="Stop", action={"type": "block"}, condition="user == 'x'", resource={"model": "demo-*"}
    )
    three = simulate(identity={"user": "x"}, provider="demo", model="demo-1")
    assert three["enforcement"]["policyName"] == "Stop"
    assert (three["evaluation"]["decision"], three["enforcement"]["reason"]) == ("block", "blocked")
    assert "no value" in simulate()["enforcement"]["why"]
    post(customer, EVERYONE, name="Free", action={"type": "no-limit"}, commit=False)
    free = simulate(identity={"user": "y"})
    assert (free["evaluation"]["decision"], free["evaluation"]["buckets"]) == ("no-limit", [])
    assert simulate(identity={"user": "y"}, model="demo/other")["evaluation"]["decision"] == "no-limit"
    wrong = {"model": "x", "identity": {"cf": {"user": {"groups": ["a"]}}}}
    response = http.post(url(customer, "/simulate"), json=wrong, headers=customer.headers)
    assert response.json()["errors"][0]["path"] == ["body", "identity", "cf", "user"]
    assert customer.balance.posted == 5 * 10**9
