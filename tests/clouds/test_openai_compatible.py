"""Providers in OpenAI's format: one row each, called with OpenAI's own SDK, with the quirks of their usage and
prices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from farebox.providers.definitions.by_unit import BY_UNIT
from farebox.providers.definitions.openai_compatible import OPENAI_COMPATIBLE
from tests.calls.kit import set_price, set_provider
from tests.calls.upstream import Upstream
from tests.clouds.kit import charged, free
from tests.engines import ON_BOTH_ENGINES
from tests.sdks import openai
from tests.support import Customer, Farebox

pytestmark = ON_BOTH_ENGINES

USAGE = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Good day."}, "finish_reason": "stop"}
MESSAGES: Any = [{"role": "user", "content": "Hello there " * 500}]
CHATS = [provider.slug for provider in OPENAI_COMPATIBLE if provider.chat_path]
OWN = 1000 * 1_000 + 100 * 2_000
"""Nano-dollars, at the price that the tests set."""


@pytest.fixture(scope="module", autouse=True)
def _rows(farebox: Farebox, upstream: Upstream) -> None:
    for provider in OPENAI_COMPATIBLE:
        set_provider(farebox, provider.slug, base_url=f"{upstream.url}/{provider.slug}")
        set_price(farebox, provider.slug, "priced-by-the-test")


@pytest.fixture(scope="module")
def customer(farebox: Farebox) -> Customer:
    return farebox.funded("50")


@pytest.fixture
def client(customer: Customer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{customer.gateway_url}/compat", api_key=customer.token, max_retries=0) as made:
        yield made


def completion(usage: dict[str, Any]) -> dict[str, Any]:
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE], "usage": usage}


@pytest.mark.parametrize("slug", CHATS)
def test_a_call_of_each_provider_is_charged(
    customer: Customer, upstream: Upstream, client: openai.OpenAI, slug: str
) -> None:
    upstream.response = completion(USAGE)
    with charged(customer) as cost:
        client.chat.completions.create(model=f"{slug}/priced-by-the-test", messages=MESSAGES, max_tokens=200)
    assert cost.nanos == OWN
    assert upstream.sent[0].path == f"/{slug}/chat/completions"
    assert upstream.sent[0].json()["model"] == "priced-by-the-test"
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    said: list[Any] = [{"choices": [{"index": 0, "delta": {"content": "Good day."}, "finish_reason": "stop"}]}]
    said.append({"choices": [], "usage": USAGE})
    upstream.says(b"".join(b"data: %b\n\n" % json.dumps(chunk | one).encode() for one in said) + b"data: [DONE]\n\n")
    with charged(customer) as cost:
        asked: dict[str, Any] = {"model": f"{slug}/priced-by-the-test", "messages": MESSAGES, "max_tokens": 200}
        assert len(list(client.chat.completions.create(**asked, stream=True))) == 1
    assert cost.nanos == OWN


LISTED = [
    ("baseten/deepseek-ai/DeepSeek-V4-Flash-0731", USAGE, 1000 * 130 + 100 * 260),
    ("huggingface/Qwen/Qwen2.5-7B-Instruct:together", USAGE, 1000 * 300 + 100 * 300),
    ("fireworks/accounts/fireworks/models/deepseek-r1-0528", USAGE, 1000 * 3_000 + 100 * 8_000),
    ("moonshot/kimi-k2", USAGE, 1000 * 570 + 100 * 2_300),
    ("zai/GLM-4-32B-0414-128K", USAGE, 1000 * 100 + 100 * 100),
    ("minimax/MiniMax-M2", USAGE, 1000 * 300 + 100 * 1_200),
]


@pytest.mark.parametrize(("model", "usage", "nanos"), LISTED)
def test_prices_of_the_list(
    customer: Customer, upstream: Upstream, client: openai.OpenAI, model: str, usage: dict[str, Any], nanos: int
) -> None:
    upstream.response = completion(usage)
    with charged(customer) as cost:
        client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=200)
    assert cost.receipt["price_version"].startswith("genai-prices/")
    assert cost.nanos == nanos


def test_databricks_names_cached_tokens_in_its_own_way(
    customer: Customer, upstream: Upstream, client: openai.OpenAI
) -> None:
    upstream.response = completion({**USAGE, "cache_read_input_tokens": 400, "reasoning_tokens": 50})
    with charged(customer) as cost:
        model = "databricks/databricks-deepseek-v4-1-flash"
        client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=200)
    assert cost.nanos == 600 * 300 + 400 * 30 + 100 * 1_200


@pytest.mark.parametrize("slug", ["voyage", "jina", "together"])
def test_embeddings(customer: Customer, upstream: Upstream, client: openai.OpenAI, slug: str) -> None:
    upstream.response = {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
        "usage": {"total_tokens": 1000},
    }
    with charged(customer) as cost:
        client.embeddings.create(model=f"{slug}/priced-by-the-test", input="Hello " * 1000, encoding_format="float")
    assert cost.nanos == 1000 * 1_000


@pytest.mark.parametrize("model", ["deepinfra/some-model", "huggingface/Qwen/Qwen2.5-7B-Instruct", "ollama/llama3.2"])
def test_a_model_without_a_price_is_refused_with_how_to_set_one(
    customer: Customer, upstream: Upstream, client: openai.OpenAI, model: str
) -> None:
    with free(customer), pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(model=model, messages=MESSAGES)
    slug, _, name = model.partition("/")
    assert f"farebox price set {slug} {name}" in refused.value.message
    assert not upstream.sent


def test_the_operators_own_server_gets_no_callers_keys(customer: Customer, upstream: Upstream) -> None:
    headers = {"cf-aig-authorization": f"Bearer {customer.token}", "authorization": "Bearer anything"}
    with free(customer):
        url = f"{customer.gateway_url}/ollama/chat/completions"
        response = httpx.post(url, json={"model": "x", "messages": MESSAGES}, headers=headers)
    assert response.status_code == 400
    assert "does not take other keys" in response.text
    assert not upstream.sent


@pytest.mark.parametrize("provider", BY_UNIT, ids=[provider.slug for provider in BY_UNIT])
def test_unmetered_paths_are_called_with_own_keys_only(
    farebox: Farebox, customer: Customer, upstream: Upstream, provider: Any
) -> None:
    set_provider(farebox, provider.slug, base_url=f"{upstream.url}/{provider.slug}")
    url = f"{customer.gateway_url}/{provider.slug}/v1/anything"
    upstream.response = {"done": True}
    with free(customer):
        assert httpx.post(url, json={}, headers=customer.headers).status_code == 400, "not on the operator's key"
        assert not upstream.sent
        name = provider.key_header
        value = f"{provider.scheme} mine-0123" if name == "authorization" else "mine-0123"
        headers = {"cf-aig-authorization": f"Bearer {customer.token}", name: value}
        assert httpx.post(url, json={}, headers=headers).status_code == 200
    assert upstream.sent[0].headers[name] == value
