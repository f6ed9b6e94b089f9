"""The field `spend_limits` of gateways over the official SDK: its life cycle, its errors, and the remainder of each
rule."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.http.support import GATEWAY_FIELDS
from tests.support import Customer

if TYPE_CHECKING:
    import cloudflare

RULE = {"limit": 10, "limitType": "cost", "window": 3600}


class Limited:
    """A customer's gateways, through the SDK."""

    def __init__(self, customer: Customer, client: "cloudflare.Cloudflare") -> None:
        self.customer = customer
        self._gateways = client.ai_gateway

    def create(self, *rules: dict[str, Any], gateway_id: str = "g", **limits: Any) -> Any:
        return self._write(self._gateways.create, {"id": gateway_id}, rules, limits)

    def update(self, *rules: dict[str, Any], gateway_id: str = "g", **limits: Any) -> Any:
        return self._write(lambda **fields: self._gateways.update(gateway_id, **fields), {}, rules, limits)

    def _write(self, send: Any, fields: dict[str, Any], rules: tuple[dict[str, Any], ...], limits: Any) -> Any:
        limits = {"enabled": True, "rules": list(rules), **limits}
        return send(account_id=self.customer.account_id, **fields, **GATEWAY_FIELDS, spend_limits=limits)

    def get(self, gateway_id: str = "g") -> Any:
        return self._gateways.get(gateway_id, account_id=self.customer.account_id)

    def left(self, gateway_id: str = "g", **query: Any) -> list[dict[str, Any]]:
        """The remainder of each rule."""
        url = f"{self.customer.api_url}/farebox/gateways/{gateway_id}/spend-limits"
        response = httpx.get(url, headers=self.customer.headers, params=query)
        assert response.status_code == 200, response.text
        found: list[dict[str, Any]] = response.json()["result"]
        return found

    def chat(self, gateway_id: str = "g", **more: Any) -> httpx.Response:
        url = f"{self.customer.farebox.url}/v1/{self.customer.account_id}/{gateway_id}/compat/chat/completions"
        headers = self.customer.headers | more.pop("headers", {})
        body = {"model": "demo/demo-1", "messages": [{"role": "user", "content": "hi"}], **more}
        return httpx.post(url, json=body, headers=headers)


@pytest.fixture
def limited(customer: Customer) -> Iterator[Limited]:
    import cloudflare

    with cloudflare.Cloudflare(base_url=f"{customer.farebox.url}/client/v4", api_token=customer.token) as client:
        yield Limited(customer, client)


def test_rules_are_kept_as_they_are_sent_with_ids_and_defaults(limited: Limited) -> None:
    made = limited.create(
        RULE,
        {
            **RULE, "id": "team", "enabled": False, "technique": "fixed", "limit": 0.25,
            "metadata": {"team": {"mode": "partition"}, "plan": {"mode": "filter", "values": ["free", "trial"]}},
            "model": {"mode": "filter", "values": ["gpt-4o"]}, "provider": {"mode": "filter", "values": ["openai"]},
        },
    )  # fmt: skip
    first, second = made.spend_limits.rules
    assert len(first.id) == 8
    assert first.to_dict() == {"enabled": True, "id": first.id, "technique": "sliding", **RULE}
    assert (second.id, second.enabled, second.technique, second.limit) == ("team", False, "fixed", 0.25)
    assert second.metadata["plan"].values == ["free", "trial"]
    assert second.metadata["team"].to_dict() == {"mode": "partition"}
    assert (second.model.values, second.provider.values) == (["gpt-4o"], ["openai"])
    assert limited.get().to_dict() == made.to_dict()
    sent_back = limited.update(*[rule.to_dict() for rule in made.spend_limits.rules])
    assert sent_back.spend_limits.to_dict() == made.spend_limits.to_dict()
    assert limited.update(RULE).spend_limits.rules[0].id != first.id
    assert limited.create(RULE, gateway_id="off", enabled=False).spend_limits.enabled is False


@pytest.mark.parametrize(
    ("rules", "faults"),
    [
        ([{"limit": 1, "limit_kind": "cost", "window": 60}], {(0, "limitType"): "Required", (0,): "Unrecognized key"}),
        ([RULE, {**RULE, "limit": 0}], {(1, "limit"): "Number must be greater than 0"}),
        ([{**RULE, "limit": 1e-10}], {(0, "limit"): "Number must be at least 0.000000001"}),
        (
            [{**RULE, "metadata": {str(key): {"mode": "partition"} for key in range(6)}}],
            {(0, "metadata"): "At most 5 keys"},
        ),
        ([{**RULE, "limitType": "a"}], {(0, "limitType"): "Invalid enum value. Expected 'cost', received 'a'"}),
        ([{**RULE, "window": 0, "technique": "loose"}], {
            (0, "window"): "Number must be greater than or equal to 1", (0, "technique"): "Invalid enum value",
        }),
        ([{"limit": 1, "limitType": "cost"}], {(0, "window"): "Required"}),
        ([{**RULE, "period": "daily"}], {(0, "window"): "Leave it out, or send 86400, with the period 'daily'"}),
        ([{**RULE, "period": "yearly"}], {(0, "period"): "Invalid enum value"}),
        ([{**RULE, "window": 1.5}], {(0, "window"): "Expected integer, received float"}),
        ([{**RULE, "model": {"mode": "filter"}}], {(0, "model", "values"): "Array must contain at least 1 element(s)"}),
        ([{**RULE, "metadata": {"plan": {"mode": "some"}}}], {(0, "metadata", "plan", "mode"): "Invalid enum value"}),
        ([{**RULE, "provider": {"mode": "partition", "values": ["x"]}}], {(0, "provider", "values"): "Only for"}),
        ([{**RULE, "id": "a"}, {**RULE, "id": "a"}], {(1, "id"): "Another rule has the id 'a' too"}),
        ([RULE] * 21, {(): "Array must contain at most 20 element(s)"}),
        ([{**RULE, "id": ""}], {(0, "id"): "String must contain at least 1 character(s)"}),
    ],
)  # fmt: skip
def test_errors_are_located(limited: Limited, rules: list[Any], faults: dict[tuple[Any, ...], str]) -> None:
    import cloudflare

    with pytest.raises(cloudflare.BadRequestError) as refused:
        limited.create(*rules)
    body: Any = refused.value.body
    found = {tuple(error["path"]): error["message"] for error in body["errors"]}
    assert {path[3:] for path in found} == set(faults)
    assert {path[:3] for path in found} == {("body", "spend_limits", "rules")}
    for path, message in found.items():
        assert message.startswith(faults[path[3:]])
    assert {error["code"] for error in body["errors"]} == {7001}


def test_what_is_spent_stays_with_a_rule_whose_window_stays(limited: Limited) -> None:
    rule = {**RULE, "id": "kept", "limit": 1, "technique": "fixed", "window": 30 * 86_400}
    limited.create(rule)
    assert [(each["spent_nanos"], each["available_nanos"]) for each in limited.left()] == [(0, 10**9)]
    answered = limited.chat()
    assert answered.status_code == 200
    charge = limited.customer.receipt(answered.headers["cf-aig-log-id"])["charge_nanos"]
    (state,) = limited.left()
    assert state["spent_nanos"] == charge > 0
    assert (state["held_nanos"], state["available_nanos"]) == (0, 10**9 - charge)
    assert (state["rule_id"], state["enabled"], state["partition"], state["window"]) == ("kept", True, {}, 30 * 86_400)
    assert state["window_start"] < state["resets_at"]
    limited.update({**rule, "limit": 2})
    assert limited.left()[0]["spent_nanos"] == charge, "another limit"
    limited.update({**rule, "limit": 2, "window": 60})
    assert limited.left()[0]["spent_nanos"] == 0, "a different window starts over"
    limited.update(rule)
    assert limited.left()[0]["spent_nanos"] == charge


def test_each_value_has_its_own_budget(limited: Limited) -> None:
    partition = {"mode": "partition"}
    limited.create({**RULE, "id": "per-team", "metadata": {"team": partition}}, {**RULE, "id": "all"})
    teams = {"a": 2, "b\u0000é" + "x" * 900: 1}
    for team, calls in teams.items():
        for _ in range(calls):
            said = limited.chat(headers={"cf-aig-metadata": json.dumps({"team": team})})
            assert said.status_code == 200, said.text
    assert limited.chat().status_code == 200, "without the key the rule does not count the call"
    whole, *others = limited.left(rule_id="all")
    assert others == []
    states = limited.left(rule_id="per-team")
    assert len(states) == 2
    assert sorted(next(iter(each["partition"])) for each in states) == ["metadata.team", "sha256"]
    assert sum(each["spent_nanos"] for each in states) * 4 == whole["spent_nanos"] * 3
    assert len(limited.left()) == 3
    [last] = limited.left(per_page=2, page=2)
    assert last == whole | {time: last[time] for time in ("window_start", "resets_at")}, "a sliding window moves on"


def test_rules_select_by_model_provider_token_and_user(limited: Limited) -> None:
    def only(**selectors: list[str]) -> dict[str, Any]:
        return {name: {"mode": "filter", "values": values} for name, values in selectors.items()}

    limited.create(
        {**RULE, "id": "model", **only(model=["demo-1"])}, {**RULE, "id": "full-name", **only(model=["demo/demo-1"])},
        {**RULE, "id": "other-model", **only(model=["gold"])}, {**RULE, "id": "provider", **only(provider=["demo"])},
        {**RULE, "id": "other-provider", **only(provider=["openai"])}, {**RULE, "id": "user", **only(user=["u1"])},
        {**RULE, "id": "per-token", "token": {"mode": "partition"}}, {**RULE, "id": "off", "enabled": False},
        {**RULE, "id": "per-user", "user": {"mode": "partition"}},
        {**RULE, "id": "number", "metadata": {"n": {"mode": "filter", "values": ["7"]}}},
    )  # fmt: skip
    limited.chat(user="u1", headers={"cf-aig-metadata": '{"n": 7}'})
    limited.chat(safety_identifier="u2", user="u1")
    limited.chat(metadata={"user_id": "u3"})
    limited.chat()
    (one,) = {each["spent_nanos"] for each in limited.left(rule_id="user")}
    spent = {each["rule_id"]: each["spent_nanos"] // one for each in limited.left()}
    assert spent == {
        "model": 4, "full-name": 4, "other-model": 0, "provider": 4, "other-provider": 0, "user": 1, "per-token": 4,
        "off": 0, "per-user": 1, "number": 1,
    }  # fmt: skip
    users = {each["partition"]["user"] for each in limited.left(rule_id="per-user")}
    assert users == {"u1", "u2", "u3"}


def test_a_refusal_says_which_rule_and_when_there_is_room_again(limited: Limited) -> None:
    limited.create({**RULE, "id": "tiny", "limit": 0.000001, "technique": "fixed", "window": 7_200})
    refused = limited.chat()
    body = refused.json()
    assert (refused.status_code, body["internalCode"]) == (402, 2045)
    words = "Spend limit exceeded: rule 'tiny' (cost limit 0.000001 per 7200s, fixed) for demo demo-1."
    assert body["message"].startswith(words)
    assert (body["source"], body["rule_id"], "resets_at" in body) == ("limit", "tiny", False)
    assert (refused.headers["x-should-retry"], refused.headers.get("retry-after")) == ("false", None)
    assert "more than the whole limit" in body["message"]
    assert "Waiting does not help" in body["description"]
    (state,) = limited.left()
    assert (state["spent_nanos"], state["held_nanos"]) == (0, 0)
    log = httpx.get(
        f"{limited.customer.api_url}/ai-gateway/gateways/g/logs/{refused.headers['cf-aig-log-id']}",
        headers=limited.customer.headers,
    ).json()["result"]
    assert (log["status_code"], log["cost"], log["success"]) == (402, 0, False)


def test_other_accounts_do_not_see_remainders(limited: Limited, customer: Customer) -> None:
    limited.create(RULE)
    other = customer.farebox.funded("1")
    url = f"{customer.api_url}/farebox/gateways/g/spend-limits"
    assert httpx.get(url, headers=other.headers).status_code == 403
    missing = httpx.get(f"{customer.api_url}/farebox/gateways/none/spend-limits", headers=customer.headers)
    assert missing.status_code == 404
