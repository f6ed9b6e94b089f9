"""The attempts of a call on its receipt: one line each, with the outcome and the charge."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.calls.kit import differences, set_gateway, set_price, set_provider
from tests.calls.upstream import Sent, Upstream, serving
from tests.engines import ON_BOTH_ENGINES
from tests.http.support import http
from tests.support import Customer, Farebox, free_port, running_farebox

pytestmark = ON_BOTH_ENGINES

CHAT = {"messages": [{"role": "user", "content": "Hello there"}]}
ANSWER = {"choices": [{"index": 0, "message": {"content": "x"}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
Says = Callable[..., None]


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("attempts")) as served:
        yield served


@pytest.fixture
def upstream(farebox: Farebox) -> Iterator[Upstream]:
    with serving() as served:
        set_provider(farebox, "groq", base_url=served.url)
        set_price(farebox, "groq", "any")
        yield served


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    made = farebox.funded("5")
    set_gateway(made)
    return made


def answers(upstream: Upstream, *statuses: int) -> None:
    """Answers with these in turn, and then always with the last."""
    left = list(statuses)

    def answer(_: Sent) -> Any:
        upstream.status = left.pop(0) if len(left) > 1 else left[0]
        return ANSWER if upstream.status == 200 else {"error": {"message": "no"}}

    upstream.response = answer


def lines(customer: Customer, log_id: str) -> list[tuple[Any, ...]]:
    found = customer.receipt(log_id).get("attempts", [])
    return [(line["provider"], line["model"], line["status"], line["charged"]) for line in found]


def test_each_retry_has_a_line(farebox: Farebox, customer: Customer, upstream: Upstream) -> None:
    answers(upstream, 500, 429, 200)
    response = customer.chat(model="groq/any", headers={"cf-aig-max-attempts": "3"})
    assert response.status_code == 200
    log_id = response.headers["cf-aig-log-id"]
    assert lines(customer, log_id) == [
        ("groq", "any", 500, False),
        ("groq", "any", 429, False),
        ("groq", "any", 200, True),
    ]
    receipt = customer.receipt(log_id)
    assert {line["log_id"] for line in receipt["attempts"]} == {log_id}
    assert 5_000_000_000 - customer.balance.posted == receipt["charge_nanos"] > 0, "charged once"
    assert differences(farebox) == []


def test_a_call_that_was_answered_at_once_has_no_attempt_lines(customer: Customer, upstream: Upstream) -> None:
    answers(upstream, 200)
    response = customer.chat(model="groq/any", headers={"cf-aig-max-attempts": "3"})
    assert "attempts" not in customer.receipt(response.headers["cf-aig-log-id"])


def test_attempts_that_all_fail_are_not_charged(customer: Customer, upstream: Upstream) -> None:
    answers(upstream, 500)
    response = customer.chat(model="groq/any", headers={"cf-aig-max-attempts": "2"})
    assert response.status_code == 500
    assert lines(customer, response.headers["cf-aig-log-id"]) == [("groq", "any", 500, False)] * 2
    assert customer.balance.posted == 5_000_000_000


def test_earlier_steps_have_lines_too(farebox: Farebox, customer: Customer, upstream: Upstream) -> None:
    """A universal request whose first step fails twice, and whose second cannot be reached."""
    set_provider(farebox, "mistral", base_url=f"http://127.0.0.1:{free_port()}")
    set_price(farebox, "mistral", "gone")
    answers(upstream, 503)
    steps = [
        {"provider": provider, "endpoint": path, "headers": {}, "query": {**CHAT, "model": model}, "config": config}
        for provider, path, model, config in (
            ("groq", "chat/completions", "any", {"maxAttempts": 2}),
            ("mistral", "v1/chat/completions", "gone", {"maxAttempts": 2}),
            ("demo", "chat/completions", "demo-1", {}),
        )
    ]
    response = http.post(customer.gateway_url, json=steps, headers={"cf-aig-authorization": f"Bearer {customer.token}"})
    assert (response.status_code, response.headers["cf-aig-step"]) == (200, "2"), response.text
    last = response.headers["cf-aig-log-id"]
    assert lines(customer, last) == [
        ("groq", "any", 503, False),
        ("groq", "any", 503, False),
        ("mistral", "gone", None, False),
        ("mistral", "gone", None, False),
        ("demo", "demo-1", 200, True),
    ]
    tried = customer.receipt(last)["attempts"]
    assert (tried[2]["error"], tried[3]["error"]) == ("refused", "upstream_unreachable (refused)")
    assert tried[4]["log_id"] == last
    first = customer.receipt(tried[0]["log_id"])
    assert (first["outcome"], first["charge_nanos"], len(first["attempts"])) == ("free", 0, 2), (
        "up to the point that it reached"
    )
    assert len(customer.receipt(tried[2]["log_id"])["attempts"]) == 4


def test_a_step_that_is_refused_has_a_line(farebox: Farebox, customer: Customer, upstream: Upstream) -> None:
    set_price(farebox, "groq", "dear", input_mtok="1000000")
    answers(upstream, 200)
    url = f"{customer.api_url}/farebox/model-aliases/fast"
    http.put(url, json={"targets": ["groq/dear", "groq/any"]}, headers=customer.headers)
    response = customer.chat(model="fast")
    tried = customer.receipt(response.headers["cf-aig-log-id"])["attempts"]
    assert [(line["model"], line["status"], line["error"], line["charged"]) for line in tried] == [
        ("dear", None, "no_credit", False),
        ("any", 200, "", True),
    ]


def test_each_key_that_was_tried_has_a_line(customer: Customer, upstream: Upstream) -> None:
    url = f"{customer.api_url}/ai-gateway/gateways/default/provider_configs"
    for alias in ("a", "b"):
        body = {"provider_slug": "groq", "alias": alias, "secret": f"sk-of-{alias}", "weight": 1}
        http.post(url, json={"default_config": False, **body}, headers=customer.headers)
    answers(upstream, 429, 200)
    response = customer.chat(model="groq/any")
    tried = customer.receipt(response.headers["cf-aig-log-id"])["attempts"]
    assert [(line["status"], line["charged"]) for line in tried] == [(429, False), (200, False)], "nothing is charged"
    assert {line["key"] for line in tried} == {"a", "b"}
