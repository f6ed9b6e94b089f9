"""Several keys for one provider (stored ones or the operator's), and weighted targets of model aliases: how they share
the calls, and which is used if one is refused or rate limited."""

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from farebox.calls.key_selection import retry_after_seconds
from farebox.limits.paused_keys import ACCOUNT_BYTES_MAX, PausedKeys
from farebox.operator.shared_keys import remove_key, set_key
from farebox.runtime import last_uses
from farebox.storage.buckets import OPERATOR
from farebox.storage.config import list_provider_keys
from farebox.storage.last_uses import uses_of
from farebox.storage.sql import Connection
from farebox.weighted_choice import weighted_index
from tests.calls.kit import OPERATOR_KEY, differences, forget, log_row, set_gateway, set_price, set_provider
from tests.calls.upstream import Sent, Upstream, serving
from tests.engines import ON_BOTH_ENGINES, TESTER, read_now
from tests.http.support import http, result
from tests.support import Customer, Farebox, running_farebox

pytestmark = ON_BOTH_ENGINES

FIRST, SECOND, THIRD = "sk-shared-key-0001", "sk-shared-key-0002", "sk-shared-key-0003"
DAY_SECONDS = 86_400
CHAT = {"id": "x", "object": "chat.completion", "model": "any", "choices": [{"index": 0, "message": {"content": "x"}}]}


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("shared")) as served:
        yield served


class Provider:
    """Answers with the status set for a key, and records the keys of requests."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.refused: dict[str, int] = {}
        self.asked: list[str] = []
        upstream.response = self._answer

    def _answer(self, request: Sent) -> dict[str, Any]:
        key = request.headers["authorization"].removeprefix("Bearer ")
        self.asked.append(key)
        self.upstream.status = self.refused.get(key, 200)
        if self.upstream.status >= 400:
            return {"error": {"message": f"Not with {key}, nor with {SECOND}.", "code": "no"}}
        return CHAT | {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}


@pytest.fixture
def provider(farebox: Farebox) -> Iterator[Provider]:
    with serving() as upstream:
        set_provider(farebox, "groq", base_url=upstream.url)
        set_price(farebox, "groq", "any")
        yield Provider(upstream)
    farebox.run(farebox.services.database.write(_remove_further))
    farebox.services.paused_keys.forget_all()


def _remove_further(connection: Connection) -> None:
    for key in list_provider_keys(connection):
        remove_key(connection, by=TESTER, at=1, provider=key.provider, name=key.name)


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    made = farebox.funded("5")
    set_gateway(made)
    return made


def api(customer: Customer, method: str, path: str, body: object = None) -> Any:
    return http.request(method, f"{customer.api_url}/{path}", json=body, headers=customer.headers)


def store(customer: Customer, alias: str, secret: str, weight: int | None, **more: Any) -> str:
    """A stored key's ID."""
    body = {"alias": alias, "default_config": False, "provider_slug": "groq", "secret": secret, **more}
    body |= {} if weight is None else {"weight": weight}
    made = result(api(customer, "POST", "ai-gateway/gateways/default/provider_configs", body))
    assert made.get("weight") == (weight or None)
    return str(made["id"])


def operator_keys(farebox: Farebox, **weights: tuple[str | None, int]) -> None:
    vault = farebox.services.vault

    def write(connection: Connection) -> None:
        for name, (secret, weight) in weights.items():
            set_key(connection, vault, by=TESTER, provider="groq", name=name, at=1, api_key=secret, weight=weight)

    farebox.run(farebox.services.database.write(write))
    forget(farebox)


def seeded(farebox: Farebox, monkeypatch: pytest.MonkeyPatch) -> random.Random:
    """Seed the weighted choice; returns a generator with the same seed."""
    monkeypatch.setattr(farebox.services.ids, "chance", random.Random(20).random)
    return random.Random(20)


def call(customer: Customer) -> int:
    return customer.chat(model="groq/any").status_code


@pytest.mark.parametrize("operators", [False, True])
def test_keys_share_the_calls_by_weight(
    farebox: Farebox, customer: Customer, provider: Provider, monkeypatch: pytest.MonkeyPatch, operators: bool
) -> None:
    if operators:
        operator_keys(farebox, default=(FIRST, 1), second=(SECOND, 3), third=(THIRD, 0))
    else:
        store(customer, "a", FIRST, 1)
        store(customer, "b", SECOND, 3)
        store(customer, "c", THIRD, 0, default_config=True)
    chance = seeded(farebox, monkeypatch)
    assert {call(customer) for _ in range(60)} == {200}
    expected = [(FIRST, SECOND)[weighted_index((1, 3), chance.random())] for _ in range(60)]
    assert provider.asked == expected
    assert 10 <= Counter(expected)[FIRST] <= 20, "about a quarter of them"
    assert (customer.balance.posted < 5_000_000_000) == operators


def test_an_alias_and_a_changed_weight_choose_the_key(farebox: Farebox, customer: Customer, provider: Provider) -> None:
    store(customer, "a", FIRST, 1)
    second = store(customer, "b", SECOND, None)
    third = store(customer, "c", THIRD, None, default_config=True)
    assert {call(customer) for _ in range(5)} == {200}
    assert set(provider.asked) == {FIRST}, "only one of several keys has a weight"
    customer.chat(model="groq/any", headers={"cf-aig-byok-alias": "b"})
    assert provider.asked[-1] == SECOND, "an alias chooses, whatever the weights"
    path = "ai-gateway/gateways/default/provider_configs"
    assert result(api(customer, "PUT", f"{path}/{second}", {"weight": 1}))["weight"] == 1
    assert {call(customer) for _ in range(40)} == {200}
    assert set(provider.asked[6:]) == {FIRST, SECOND}
    for config in result(api(customer, "GET", path)):
        api(customer, "PUT", f"{path}/{config['id']}", {"weight": 0})
    call(customer)
    assert provider.asked[-1] == THIRD, "without weights it is the default key"
    for wrong in ({}, {"weight": -1}, {"weight": 1001}, {"weight": 1.5}):
        assert api(customer, "PUT", f"{path}/{third}", wrong).status_code == 400


@pytest.mark.parametrize("operators", [False, True])
@pytest.mark.parametrize("status", [401, 402, 403, 429])
def test_a_refused_key_rests_and_another_is_used(
    farebox: Farebox,
    customer: Customer,
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
    operators: bool,
    status: int,
) -> None:
    if operators:
        operator_keys(farebox, default=(FIRST, 1000), second=(SECOND, 1), third=(THIRD, 0))
        ids = ["groq", "groq/second"]
    else:
        ids = [store(customer, "a", FIRST, 1000), store(customer, "b", SECOND, 1)]
    monkeypatch.setattr(farebox.services.ids, "chance", lambda: 0.0)
    provider.refused[FIRST] = status
    provider.upstream.headers = {"retry-after": "600"}
    before = farebox.services.clock.now_ms()
    first = customer.chat(model="groq/any")
    assert first.status_code == 200, first.text
    assert provider.asked == [FIRST, SECOND]
    assert [call(customer) for _ in range(3)] == [200] * 3
    assert provider.asked[2:] == [SECOND] * 3
    paused, owner = farebox.services.paused_keys, OPERATOR if operators else customer.account_id
    assert before + 600_000 <= paused.until(owner, ids[0], "any") <= farebox.services.clock.now_ms() + 600_000
    assert (paused.until(owner, ids[0], "other") > before) == (status in (401, 402)), "a limit may be the model's"
    row = log_row(customer, first.headers["cf-aig-log-id"])
    assert row["status_code"] == 200
    assert row.get("byok") == (None if operators else "b")
    farebox.run(last_uses.write(farebox.services))
    kind = "provider" if operators else "provider_config"
    used = read_now(farebox.services.settings, lambda connection: uses_of(connection, owner, kind))
    assert used[ids[0]] >= before
    assert used[ids[1]] >= before
    assert customer.balance.held == 0
    assert (customer.balance.posted < 5_000_000_000) == operators
    assert differences(farebox) == []


def test_if_all_keys_are_refused_the_last_response_counts(
    farebox: Farebox, customer: Customer, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [store(customer, "a", FIRST, 2), store(customer, "b", SECOND, 1)]
    monkeypatch.setattr(farebox.services.ids, "chance", lambda: 0.0)
    provider.refused = {FIRST: 429, SECOND: 429}
    response = customer.chat(model="groq/any")
    assert (response.status_code, provider.asked) == (429, [FIRST, SECOND])
    assert FIRST not in response.text
    assert SECOND not in response.text, "none of the possible keys is revealed"
    services = farebox.services
    services.paused_keys.pause(customer.account_id, ids[0], "any", services.clock.now_ms() + 90_000)
    provider.refused = {}
    assert call(customer) == 200
    assert provider.asked[2:] == [SECOND], "all are paused: the one that may be used again first is tried"


def test_one_alarm_is_raised_if_all_operator_keys_are_refused(
    farebox: Farebox, customer: Customer, provider: Provider
) -> None:
    operator_keys(farebox, default=(FIRST, 1), second=(SECOND, 1), third=(THIRD, 0))
    provider.refused = {FIRST: 401, SECOND: 401}
    response = customer.chat(model="groq/any")
    assert (response.status_code, response.json()["internalCode"]) == (503, 2915)
    assert sorted(provider.asked) == [FIRST, SECOND]
    balance = customer.balance
    assert (balance.posted, balance.held) == (5_000_000_000, 0)


def test_a_key_at_its_rate_limit_leaves_calls_to_others(
    farebox: Farebox, customer: Customer, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farebox.services.ids, "chance", lambda: 0.0)
    limit = {"rate_limit": 2, "rate_limit_period": DAY_SECONDS}
    store(customer, "a", FIRST, 5, **limit)
    store(customer, "b", SECOND, 1, **limit)
    assert [call(customer) for _ in range(4)] == [200] * 4
    assert provider.asked == [FIRST, FIRST, SECOND, SECOND]
    response = customer.chat(model="groq/any")
    assert (response.status_code, response.json()["internalCode"]) == (429, 2003)
    assert int(response.headers["retry-after"]) > 0


def test_an_alias_shares_its_requests_by_weight(
    farebox: Farebox, customer: Customer, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_price(farebox, "groq", "other")
    set_provider(farebox, "groq", base_url=provider.upstream.url)
    targets = ["demo/demo-1", {"model": "groq/any", "weight": 3}, {"model": "groq/other", "weight": 1}]
    made = result(api(customer, "PUT", "farebox/model-aliases/fast", {"targets": targets}))
    assert made["targets"] == targets
    chance = seeded(farebox, monkeypatch)
    models = [customer.chat(model="fast").headers["cf-aig-model"] for _ in range(40)]
    expected = []
    for _ in range(40):
        expected.append(("any", "other")[weighted_index((3, 1), chance.random())])
        chance.random()  # for the next target
    assert models == expected
    provider.refused = {OPERATOR_KEY: 500}
    failing = customer.chat(model="fast")
    assert (failing.status_code, failing.headers["cf-aig-step"]) == (200, "2")
    assert failing.headers["cf-aig-model"] == "demo-1", "those without a weight come last"
    for wrong in ({"model": "groq/any", "weight": -1}, {"model": "groq/any", "share": 1}, {"weight": 1}):
        assert api(customer, "PUT", "farebox/model-aliases/fast", {"targets": [wrong]}).status_code == 400


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], 0),
        ([("Retry-After", "7")], 7),
        ([("retry-after", "1.5")], 1.5),
        ([("retry-after-ms", "250"), ("retry-after", "7")], 0.25),
        ([("retry-after", "Thu, 01 Jan 1970 00:01:00 GMT")], 50),
        ([("retry-after", "Thu, 01 Jan 1970 00:00:01 GMT")], 0),
        ([("retry-after", "Thu, 01 Jan 1970 00:01:00")], 50),
        ([("retry-after", "Thu, 01 Jan 99999999999999999999 00:00:00 GMT")], 0),
        ([("retry-after", "soon")], 0),
        ([("retry-after", "nan")], 0),
        ([("retry-after", "-3")], 0),
    ],
)
def test_a_key_rests_as_long_as_the_provider_asks(headers: list[tuple[str, str]], seconds: float) -> None:
    assert retry_after_seconds(headers, 10_000) == seconds


def test_the_number_of_paused_keys_is_bounded_for_each_account() -> None:
    paused = PausedKeys()
    paused.pause("an account", "key", "", until=90)
    for number in range(2_000):
        paused.pause("another", "key", f"model-{number}", until=100)
    paused.pause("another", "key", "x" * ACCOUNT_BYTES_MAX, until=100)
    assert paused.until("an account", "key", "any") == 90
    assert paused.until("another", "key", "model-1999") == 100
    kept = [number for number in range(2_000) if paused.until("another", "key", f"model-{number}")]
    assert 900 < len(kept) < 1_000
