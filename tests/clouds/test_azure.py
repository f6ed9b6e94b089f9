"""Azure OpenAI, called with OpenAI's own SDK for it: by deployment and in the newer form, at the list's Azure
prices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.calls.kit import set_provider
from tests.calls.upstream import Upstream
from tests.clouds.kit import charged, free
from tests.engines import ON_BOTH_ENGINES
from tests.long_calls.kit import settled
from tests.sdks import openai
from tests.support import Customer, Farebox

pytestmark = ON_BOTH_ENGINES

KEY = "azure-key-of-the-operator-0123"
DEPLOYMENTS = {"chat-prod": "gpt-4o", "reader": "text-embedding-3-small", "studio": "sora-2-pro"}
USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 100,
    "total_tokens": 1100,
    "prompt_tokens_details": {"cached_tokens": 400},
}
COST = 600 * 2_500 + 400 * 1_250 + 100 * 10_000
MESSAGES: Any = [{"role": "user", "content": "Hello there " * 500}]
FILTERED = {"hate": {"filtered": False, "severity": "safe"}}


@pytest.fixture(scope="module", autouse=True)
def _azure(farebox: Farebox, upstream: Upstream) -> None:
    _set_up(farebox, upstream.url + "/at/{resource}")


def _set_up(farebox: Farebox, base_url: str) -> None:
    key = json.dumps({"resource": "Acme-EU", "api_key": KEY, "deployments": DEPLOYMENTS})
    set_provider(farebox, "azure-openai", base_url=base_url, api_key=key)


def completion(model: str = "gpt-4o-2024-11-20", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Good day."}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "content_filter_results": FILTERED}
    filters = [{"prompt_index": 0, "content_filter_results": FILTERED}]
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [choice],
        "prompt_filter_results": filters,
        "usage": USAGE,
        **more,
    }


def events(*chunks: dict[str, Any]) -> bytes:
    each = [{"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "", **chunk} for chunk in chunks]
    return b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in each) + b"data: [DONE]\n\n"


def stream(model: str = "gpt-4o-2024-11-20") -> bytes:
    """A stream with the asynchronous content filter: annotations without a delta come before, between and after."""
    return events(
        {"choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": FILTERED}]},
        {"model": model, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Good "}}]},
        {"model": model, "choices": [{"index": 0, "delta": {"content": "day."}}]},
        {"model": model, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {
            "choices": [
                {
                    "index": 0,
                    "finish_reason": None,
                    "content_filter_results": FILTERED,
                    "content_filter_offsets": {"check_offset": 0, "start_offset": 0, "end_offset": 9},
                }
            ]
        },
        {"model": model, "choices": [], "usage": USAGE},
    )


OPENED: list[openai.OpenAI] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def opened(client: openai.OpenAI) -> openai.OpenAI:
    """The client, which is closed after the block."""
    OPENED.append(client)
    return client


def azure(customer: Customer, resource: str = "acme-eu") -> openai.OpenAI:
    endpoint = f"{customer.gateway_url}/azure-openai/{resource}"
    return opened(
        openai.AzureOpenAI(
            azure_endpoint=endpoint, api_key=customer.token, api_version="2025-04-01-preview", max_retries=0
        )
    )


def ask(client: openai.OpenAI, model: str, **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=200, **more)


def test_a_deployment_is_priced_as_the_model_that_the_operator_says(customer: Customer, upstream: Upstream) -> None:
    upstream.response = completion()
    with charged(customer) as cost:
        assert ask(azure(customer), "chat-prod").choices[0].message.content == "Good day."
    assert cost.nanos == COST
    assert cost.row["model"] == "gpt-4o-2024-11-20"
    assert cost.receipt["price_version"].startswith("genai-prices/")
    sent = upstream.sent[0]
    path = "/at/acme-eu/openai/deployments/chat-prod/chat/completions?api-version=2025-04-01-preview"
    assert (sent.path, sent.headers["api-key"]) == (path, KEY)
    assert "authorization" not in sent.headers


def test_a_stream_with_content_filters(customer: Customer, upstream: Upstream) -> None:
    upstream.says(stream())
    with charged(customer) as cost:
        chunks = list(ask(azure(customer), "chat-prod", stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices and c.choices[0].delta) == "Good day."
    assert chunks[0].model_extra["prompt_filter_results"][0]["content_filter_results"] == FILTERED
    assert not any(chunk.usage for chunk in chunks), "usage was not asked for by the client"
    assert upstream.sent[0].json()["stream_options"] == {"include_usage": True}
    assert cost.nanos == COST


@pytest.mark.parametrize(
    ("path", "upstream_path"),
    [
        ("acme-eu/chat-prod/chat/completions", "openai/deployments/chat-prod/chat/completions"),
        ("ACME-EU/openai/deployments/chat-prod/chat/completions", "openai/deployments/chat-prod/chat/completions"),
        ("acme-eu/x/deployments/chat-prod/chat/completions", "openai/deployments/chat-prod/chat/completions"),
    ],
)
def test_the_paths_of_a_deployment(customer: Customer, upstream: Upstream, path: str, upstream_path: str) -> None:
    """Cloudflare's path without a model in the body, the SDK's own, and the one that the SDK appends to
    Cloudflare's."""
    upstream.response = completion()
    url = f"{customer.gateway_url}/azure-openai/{path}?api-version=2024-10-21"
    with charged(customer) as cost:
        response = httpx.post(url, json={"messages": MESSAGES, "max_tokens": 200}, headers=customer.headers)
        assert response.status_code == 200, response.text
    assert cost.nanos == COST
    assert upstream.sent[0].path == f"/at/acme-eu/{upstream_path}?api-version=2024-10-21"
    assert "model" not in upstream.sent[0].json()


def test_the_newer_form_names_the_deployment_in_the_body(customer: Customer, upstream: Upstream) -> None:
    upstream.response = completion()
    base_url = f"{customer.gateway_url}/azure-openai/acme-eu/openai/v1/"
    client = opened(openai.OpenAI(base_url=base_url, api_key=customer.token, max_retries=0))
    with charged(customer) as cost:
        ask(client, "chat-prod")
    assert (cost.nanos, cost.row["model"]) == (COST, "gpt-4o-2024-11-20")
    assert upstream.sent[0].path == "/at/acme-eu/openai/v1/chat/completions"
    assert upstream.sent[0].json()["model"] == "chat-prod", "its name at Azure"


def test_videos_of_a_deployment(customer: Customer, farebox: Farebox, upstream: Upstream) -> None:
    """The deployment's name stands for the model at every resolution, and the worker polls where the video was
    started."""
    url, began = f"{customer.gateway_url}/azure-openai/acme-eu/openai/v1/videos", customer.balance.posted
    asked = {"model": "studio", "prompt": "A harbour", "seconds": "4", "size": "1024x1792"}
    upstream.response = {**asked, "id": "video_1", "object": "video", "status": "queued"}
    made = httpx.post(url, json=asked, headers=customer.headers).json()
    assert (made["id"], customer.balance.held) == ("video_1", 4 * 500_000_000)
    foreign = farebox.funded("1")
    path = "azure-openai/acme-eu/openai/v1/videos/video_1"
    assert httpx.get(f"{foreign.gateway_url}/{path}", headers=foreign.headers).status_code == 404
    upstream.response = {**made, "status": "completed"}
    settled(customer)
    assert (customer.balance.held, began - customer.balance.posted) == (0, 4 * 500_000_000)
    assert upstream.sent[-1].path == "/at/acme-eu/openai/v1/videos/video_1"
    assert upstream.sent[-1].headers["api-key"] == KEY


def test_without_a_table_the_answer_says_which_model_a_deployment_is(customer: Customer, upstream: Upstream) -> None:
    """A deployment usually has its model's name; if the response names another model, Azure bills that one."""
    upstream.response = completion("gpt-4o-mini-2024-07-18")
    with charged(customer) as cost:
        ask(azure(customer), "gpt-4o")
    assert cost.nanos == 600 * 150 + 400 * 75 + 100 * 600


def test_a_deployment_of_an_unknown_model_is_not_called(customer: Customer, upstream: Upstream) -> None:
    with free(customer), pytest.raises(openai.BadRequestError) as refused:
        ask(azure(customer), "something-else")
    assert "farebox price set azure-openai something-else" in refused.value.message
    assert not upstream.sent


def test_responses_and_embeddings(customer: Customer, upstream: Upstream) -> None:
    output = {"type": "message", "id": "m", "role": "assistant", "status": "completed"}
    text = {"type": "output_text", "text": "Good day.", "annotations": []}
    upstream.response = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": "chat-prod",
        "output": [{**output, "content": [text]}],
        "usage": {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100},
    }
    with charged(customer) as cost:
        response = azure(customer).responses.create(model="chat-prod", input="Hello " * 1000, max_output_tokens=200)
    assert response.output_text == "Good day."
    assert cost.nanos == 1000 * 2_500 + 100 * 10_000
    with free(customer):
        assert azure(customer).responses.retrieve("resp_1").output_text == "Good day."
    foreign, sent = customer.farebox.funded("1"), len(upstream.sent)
    with pytest.raises(openai.NotFoundError):
        azure(foreign).responses.retrieve("resp_1")
    assert len(upstream.sent) == sent
    upstream.response = {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
        "model": "text-embedding-3-small",
        "usage": {"prompt_tokens": 1000, "total_tokens": 1000},
    }
    with charged(customer) as cost:
        azure(customer).embeddings.create(model="reader", input="Hello " * 1000, encoding_format="float")
    assert cost.nanos == 1000 * 20


def test_the_operators_key_goes_to_its_resource_alone(customer: Customer, upstream: Upstream) -> None:
    with free(customer), pytest.raises(openai.APIStatusError) as refused:
        ask(azure(customer, "someone-else"), "gpt-4o")
    assert "not for the resource “someone-else”" in refused.value.message
    assert not upstream.sent


def test_a_resource_that_does_not_exist(farebox: Farebox, customer: Customer, upstream: Upstream) -> None:
    """Its host name does not resolve."""
    _set_up(farebox, "https://{resource}.invalid")
    try:
        with free(customer), pytest.raises(openai.APIStatusError, match=r"could not be reached \(dns\)") as raised:
            ask(azure(customer), "chat-prod")
        assert raised.value.status_code == 502
    finally:
        _set_up(farebox, upstream.url + "/at/{resource}")


@pytest.mark.parametrize(
    "resource", ["acme.example.com", "acme%2eexample", "acme@example", "acme%2F..", "-acme", "acme:80", "a%00b", "a#b"]
)
def test_a_host_cannot_be_injected(customer: Customer, upstream: Upstream, resource: str) -> None:
    url = f"{customer.gateway_url}/azure-openai/{resource}/openai/deployments/gpt-4o/chat/completions"
    for headers in (customer.headers, {"cf-aig-authorization": f"Bearer {customer.token}", "api-key": "my-own"}):
        with free(customer):
            response = httpx.post(url, json={"messages": MESSAGES}, headers=headers)
            assert response.status_code in (400, 404), response.text
    assert not upstream.sent


def test_search_in_the_operators_data_is_not_paid_for(customer: Customer, upstream: Upstream) -> None:
    with free(customer), pytest.raises(openai.BadRequestError, match="data_sources"):
        ask(azure(customer), "chat-prod", extra_body={"data_sources": [{"type": "azure_search"}]})
    assert not upstream.sent


def test_a_caller_brings_a_token_of_entra(customer: Customer, upstream: Upstream) -> None:
    """It is forwarded unchanged, to any resource; nothing is charged."""
    upstream.response = completion()
    client = openai.AzureOpenAI(
        azure_endpoint=f"{customer.gateway_url}/azure-openai/mine",
        azure_ad_token="eyJ0.of.entra",
        api_version="2024-10-21",
        default_headers={"cf-aig-authorization": f"Bearer {customer.token}"},
        max_retries=0,
    )
    with client, free(customer):
        ask(client, "gpt-4o")
    sent = upstream.sent[0]
    assert sent.path.startswith("/at/mine/openai/deployments/gpt-4o/")
    assert sent.headers["authorization"] == "Bearer eyJ0.of.entra"
    assert "api-key" not in sent.headers


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"code": "content_filter", "status": 400, "message": "filtered", "innererror": {"code": "x"}}),
        (404, {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}),
        (429, {"code": "429", "message": "Requests have exceeded the rate limit."}),
    ],
)
def test_an_error_of_azure_costs_nothing(
    customer: Customer, upstream: Upstream, status: int, error: dict[str, Any]
) -> None:
    upstream.status, upstream.response = status, {"error": error}
    with free(customer), pytest.raises(openai.APIStatusError) as raised:
        ask(azure(customer), "chat-prod")
    assert raised.value.status_code == status
    assert error["message"] in raised.value.message


def test_an_expired_key_is_the_operators_trouble(customer: Customer, upstream: Upstream) -> None:
    message = "Access denied due to invalid subscription key or wrong API endpoint."
    upstream.status, upstream.response = 401, {"error": {"code": "401", "message": message}}
    with free(customer), pytest.raises(openai.APIStatusError) as raised:
        ask(azure(customer), "chat-prod")
    assert raised.value.status_code == 503
    assert KEY not in raised.value.response.text


def test_a_stored_key_with_its_deployments(farebox: Farebox, upstream: Upstream) -> None:
    """With a stored key, the account's own table of deployments determines the logged cost; nothing is charged."""
    customer = farebox.funded("1")
    url = f"{customer.api_url}/ai-gateway/gateways/default/provider_configs"
    fields = {"alias": "default", "default_config": True, "provider_slug": "azure-openai"}
    mine = {"resource": "mine", "api_key": "my own key", "deployments": {"d": "gpt-4o"}}
    refused = httpx.post(url, json={**fields, "secret": json.dumps(mine)}, headers=customer.headers)
    assert refused.status_code == 400
    assert "not as it should be" in refused.text
    assert "my own" not in refused.text
    mine["api_key"] = "my-own-key-0123"
    stored = httpx.post(url, json={**fields, "secret": json.dumps(mine, indent=2)}, headers=customer.headers)
    assert stored.status_code == 200, stored.text
    assert "my-own" not in stored.text
    upstream.response = completion()
    with free(customer):
        path = f"{customer.gateway_url}/azure-openai/mine/d/chat/completions?api-version=1"
        response = httpx.post(path, json={"messages": MESSAGES}, headers=customer.headers)
    assert response.status_code == 200, response.text
    assert upstream.sent[0].headers["api-key"] == "my-own-key-0123"
