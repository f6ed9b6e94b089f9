"""An access token's limits, set through the API: its rate over all gateways, its models, its expiry."""

import random
from collections.abc import Iterator
from typing import Any

import pytest

from farebox.limits.rate import RateLimiter
from farebox.model import Permission
from tests.calls.kit import log_rows, set_gateway
from tests.engines import ON_BOTH_ENGINES
from tests.http.support import errors, http, result
from tests.sdks import openai
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import start_of_window

pytestmark = ON_BOTH_ENGINES

DAY_SECONDS = 86_400


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("rates")) as served:
        yield served


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    return farebox.funded("5")


def tokens(customer: Customer) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = result(http.get(f"{customer.api_url}/farebox/tokens", headers=customer.headers))
    return found


def test_a_limit_goes_on_if_the_clock_is_set_back() -> None:
    limiter, key, minute = RateLimiter(), ("a", "g"), 60_000
    for at in (100 * minute, 99 * minute):
        assert limiter.admit(key, 2, 60, sliding=False, now_ms=at) is None
    assert limiter.admit(key, 2, 60, sliding=False, now_ms=98 * minute) == 99 * minute
    assert limiter.admit(key, 2, 60, sliding=False, now_ms=99 * minute) is None


def limit(customer: Customer, token_id: str, **rate: object) -> Any:
    return http.put(f"{customer.api_url}/farebox/tokens/{token_id}", json=rate, headers=customer.headers)


def limited(customer: Customer, calls: int, **more: object) -> Customer:
    """The account with a token that may make this many calls per day."""
    caller = Customer(
        customer.farebox,
        customer.account_id,
        customer.farebox.create_token(customer.account_id, Permission.RUN),
    )
    rate = {"rate_limiting_limit": calls, "rate_limiting_interval": DAY_SECONDS, **more}
    made = result(limit(customer, tokens(customer)[-1]["id"], **rate))
    assert {name: made[name] for name in rate} == rate
    return caller


@pytest.mark.parametrize("technique", ["fixed", "sliding"])
def test_a_token_can_make_only_as_many_calls_as_its_limit(customer: Customer, technique: str) -> None:
    caller = limited(customer, 3, rate_limiting_technique=technique)
    set_gateway(customer, "other")
    url = f"{caller.farebox.url}/v1/{caller.account_id}/other/demo/chat/completions"
    body = {"model": "demo-1", "messages": [{"role": "user", "content": "Hi"}]}
    start_of_window(DAY_SECONDS)
    assert http.post(url, json=body, headers=caller.headers).status_code == 200
    statuses = [caller.chat().status_code for _ in range(4)]
    assert statuses == [200, 200, 429, 429], "over all gateways"
    refused = caller.chat()
    problem = refused.json()
    assert (problem["internalCode"], problem["source"]) == (2003, "token")
    assert problem["error"]["code"] == "token_rate_limited"
    assert problem["retry_after"] == int(refused.headers["retry-after"]) > 0
    assert "rate limit" in problem["remedy"]
    assert customer.chat().status_code == 200, "another token of the account"
    assert len(log_rows(customer)) == 3, "a refused call does not count"
    assert tokens(customer)[-1]["last_used_at"] is None


def test_sdks_see_a_rate_limit(customer: Customer) -> None:
    caller = limited(customer, 1)
    ask = {"model": "demo/demo-1", "messages": [{"role": "user", "content": "Hi"}]}
    with openai.OpenAI(base_url=f"{caller.gateway_url}/compat", api_key=caller.token, max_retries=0) as client:
        client.chat.completions.create(**ask)  # type: ignore[call-overload]
        with pytest.raises(openai.RateLimitError) as raised:
            client.chat.completions.create(**ask)  # type: ignore[call-overload]
    assert raised.value.code == "token_rate_limited"
    assert raised.value.body["source"] == "token"  # type: ignore[index]


def test_calls_refused_by_a_tokens_limit_do_not_count_for_the_gateway(customer: Customer) -> None:
    set_gateway(customer, rate_limiting_limit=3, rate_limiting_interval=DAY_SECONDS)
    caller = limited(customer, 1)
    assert [caller.chat().status_code for _ in range(4)] == [200, 429, 429, 429]
    assert [customer.chat().status_code for _ in range(3)] == [200, 200, 429]
    assert customer.chat().json()["source"] == "limit"


def test_a_limit_is_changed_and_lifted(customer: Customer) -> None:
    caller = limited(customer, 1)
    token_id = tokens(customer)[-1]["id"]
    assert [caller.chat().status_code for _ in range(2)] == [200, 429]
    limit(customer, token_id, rate_limiting_limit=2, rate_limiting_interval=DAY_SECONDS)
    assert [caller.chat().status_code for _ in range(2)] == [200, 429]
    lifted = result(limit(customer, token_id, rate_limiting_limit=0))
    assert (lifted["rate_limiting_limit"], lifted["rate_limiting_interval"]) == (0, 0)
    assert [caller.chat().status_code for _ in range(3)] == [200] * 3


def test_a_tokens_models_are_set_and_lifted(customer: Customer) -> None:
    caller = limited(customer, 100)
    token_id = tokens(customer)[-1]["id"]
    for models, allowed in (
        (["demo/gold"], False),
        (["demo/*", "openai/gpt-4o"], True),
        (["openai/*"], False),
        (None, True),
    ):
        changed = result(limit(customer, token_id, models=models))
        assert (changed["models"], changed["rate_limiting_limit"]) == (models, 100), "other fields stay unchanged"
        response = caller.chat()
        assert response.status_code == (200 if allowed else 403), response.text
    assert result(limit(customer, token_id, models=["anthropic/claude-haiku-4.5"]))["models"] == [
        "anthropic/claude-haiku-4-5"
    ], "in the spelling with which calls are compared"
    for wrong in ([], ["demo"], ["*"], ["demo/a*"], [7], ["demo/x"] * 101, "demo/x"):
        response = limit(customer, token_id, models=wrong)
        assert (response.status_code, errors(response)[0][0]) == (400, 7001), wrong
        assert response.json()["errors"][0]["path"][:2] == ["body", "models"]


def test_a_tokens_expiry_is_set_and_an_expired_token_stays_expired(farebox: Farebox, customer: Customer) -> None:
    caller = limited(customer, 100)
    token_id = tokens(customer)[-1]["id"]
    changed = result(limit(customer, token_id, expires_at="2999-01-01"))
    assert (changed["expires_at"], changed["active"]) == ("2999-01-01T00:00:00.000Z", True)
    assert result(limit(customer, token_id, expires_at=None))["expires_at"] is None
    assert caller.chat().status_code == 200
    past = limit(customer, token_id, expires_at="2001-01-01")
    assert (past.status_code, past.json()["errors"][0]["path"]) == (400, ["body", "expires_at"])
    spent = farebox.create_token(customer.account_id, Permission.RUN, expires_at=1)
    (expired,) = [token["id"] for token in tokens(customer) if not token["active"]]
    assert limit(customer, expired, expires_at=None).status_code == 400
    assert Customer(farebox, customer.account_id, spent).chat().status_code == 401


def test_no_token_can_widen_itself(farebox: Farebox, customer: Customer) -> None:
    """The holder of a limited token that was given `Write` by mistake cannot widen it."""
    later = farebox.services.clock.now_ms() + 10**9
    account_id, first = customer.account_id, {token["id"] for token in tokens(customer)}
    brief = Customer(farebox, account_id, farebox.create_token(account_id, *Permission, expires_at=later))
    narrow = Customer(farebox, account_id, farebox.create_token(account_id, *Permission))
    found = {token["id"]: token for token in tokens(customer)}
    (brief_id,) = [token_id for token_id, token in found.items() if token["expires_at"]]
    (narrow_id,) = set(found) - first - {brief_id}
    result(limit(narrow, narrow_id, models=["demo/*"]))
    for token_id in found:
        refused = limit(narrow, token_id, models=None)
        assert (refused.status_code, errors(refused)[0][0]) == (403, 10000)
        assert limit(brief, token_id, expires_at=None).status_code == 403
    assert result(limit(narrow, brief_id, expires_at=None))["expires_at"] is None
    assert result(limit(customer, narrow_id, models=None))["models"] is None


def test_permissions_to_change_tokens(farebox: Farebox, customer: Customer) -> None:
    token_id, other = tokens(customer)[0]["id"], farebox.funded("5")
    theirs = tokens(other)[0]["id"]
    missing = limit(customer, theirs, rate_limiting_limit=1)
    assert (missing.status_code, errors(missing)) == (404, [(7002, "Not Found")]), "another account's token"
    for permission in (Permission.RUN, Permission.READ):
        weak = Customer(farebox, customer.account_id, farebox.create_token(customer.account_id, permission))
        assert limit(weak, token_id, rate_limiting_limit=1).status_code == 403
    for wrong in (
        {},
        {"rate_limiting_limit": -1},
        {"rate_limiting_limit": 1.5},
        {"rate_limiting_limit": 1, "rate_limiting_interval": 0},
        {"rate_limiting_limit": 1, "rate_limiting_technique": "leaky"},
        {"rate_limiting_limit": 1, "name": "x"},
        {"rate_limiting_interval": 60},
        {"rate_limiting_limit": None},
        {"expires_at": "soon"},
    ):
        assert limit(customer, token_id, **wrong).status_code == 400, wrong
    url = f"{customer.api_url}/farebox/tokens/{token_id}"
    assert result(http.get(url, headers=customer.headers))["rate_limiting_limit"] == 0
    assert http.get(f"{customer.api_url}/farebox/tokens/{theirs}", headers=customer.headers).status_code == 404


def test_a_sliding_limit_counts_what_overlaps() -> None:
    """The limiter that gateways use too, here with controlled time."""
    limiter, key = RateLimiter(), ("a", "token/t")
    at = 10_000_000
    admitted = [limiter.admit(key, 4, 10, sliding=True, now_ms=at + 5_000) for _ in range(5)]
    assert admitted == [None] * 4 + [at + 10_001], "the next window, in which the previous one counts less and less"
    assert [limiter.admit(key, 4, 10, sliding=True, now_ms=at + 15_000) for _ in range(3)] == [None, None, at + 15_001]
    assert [limiter.admit(key, 4, 10, sliding=False, now_ms=at + 25_000) for _ in range(5)] == [None] * 4 + [
        at + 30_000
    ]


@pytest.mark.parametrize("sliding", [False, True])
def test_a_limit_admits_a_call_at_the_stated_time_and_not_before(sliding: bool) -> None:
    chance = random.Random(13)
    for _ in range(300):
        limiter, key, now = RateLimiter(), ("a", "g"), chance.randrange(10**6)
        limit, seconds = chance.randrange(1, 9), chance.randrange(1, 9)
        for _ in range(40):
            opens_at = limiter.admit(key, limit, seconds, sliding=sliding, now_ms=now)
            if opens_at is None:
                now += chance.randrange(700)
                continue
            assert limiter.admit(key, limit, seconds, sliding=sliding, now_ms=opens_at - 1) is not None
            assert limiter.admit(key, limit, seconds, sliding=sliding, now_ms=opens_at) is None
            now = opens_at
