"""`/ai/run`, which Cloudflare's own clients call: Workers AI in its own form, others in Cloudflare's envelope."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from farebox.operator import prices
from tests.calls import kit
from tests.calls.upstream import Sent, Upstream, serving
from tests.engines import ON_BOTH_ENGINES, TESTER
from tests.http.support import http
from tests.node.programs import installed_node, run
from tests.sdks import cloudflare, openai
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import until

pytestmark = ON_BOTH_ENGINES
LLAMA = "@cf/meta/llama-3.1-8b-instruct"
BGE, RERANKER, FLUX = "@cf/baai/bge-base-en-v1.5", "@cf/baai/bge-reranker-base", "@cf/black-forest-labs/flux-1-schnell"
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi there"}]}


def in_envelope(result: Any) -> dict[str, Any]:
    return {"result": result, "success": True, "errors": [], "messages": []}


def workers_ai(request: Sent) -> Any:
    """Cloudflare's response, by the model in the path."""
    body = request.json()
    if request.path.endswith(BGE):
        return in_envelope({"shape": [len(body["text"]), 2], "data": [[0.5, 0.25]] * len(body["text"])})
    if request.path.endswith(RERANKER):
        return in_envelope({"response": [{"id": at, "score": at / 10} for at in range(len(body["contexts"]))]})
    if not body.get("stream"):
        return in_envelope({"response": "Hello you", "usage": USAGE})
    events = [{"response": "Hello", "p": "ab"}, {"response": " you"}, {"response": "", "usage": USAGE}]
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with serving() as served:
        served.response = workers_ai
        yield served


@pytest.fixture(scope="module")
def farebox(engine: str, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("run")) as served:
        kit.set_provider(served, "workers-ai", base_url=f"{upstream.url}/accounts/operator/ai")
        for slug in ("openai", "anthropic"):
            kit.set_provider(served, slug)
            kit.set_price(served, slug, "any-1")
        for model in (LLAMA, BGE, RERANKER):
            kit.set_price(served, "workers-ai", model)
        yield served
        assert kit.differences(served) == []


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    return farebox.funded("5")


def spent(customer: Customer) -> int:
    assert customer.balance.held == 0
    return 5 * 10**9 - customer.balance.posted


def post(customer: Customer, model: str, body: Any, **headers: str) -> Any:
    url = f"{customer.api_url}/ai/run{'/' if model else ''}{model}"
    return http.post(url, json=body, headers=customer.headers | headers)


def code(response: Any) -> tuple[int, int]:
    return response.status_code, response.json()["errors"][0]["code"]


def test_langchain_cloudflare(customer: Customer, upstream: Upstream) -> None:
    from langchain_cloudflare import ChatCloudflareWorkersAI, CloudflareWorkersAIEmbeddings, CloudflareWorkersAIReranker

    base = f"{customer.farebox.url}/client/v4"
    who: dict[str, Any] = {"account_id": customer.account_id, "api_token": customer.token}
    options = {**who, "model": LLAMA, "base_url": base, "ai_gateway": "default"}
    chat: Any = ChatCloudflareWorkersAI(**options)
    answer = chat.invoke("Hi there")
    assert (answer.content, answer.usage_metadata["total_tokens"]) == ("Hello you", 10)
    assert "".join(str(chunk.content) for chunk in chat.stream("Hi there")) == "Hello you"
    assert spent(customer) == 2 * kit.price_of(7, 3)
    chat.client.close()
    asyncio.run(chat.async_client.aclose())
    assert [row["provider"] for row in kit.log_rows(customer)] == ["workers-ai"] * 2
    assert upstream.sent[-1].path == f"/accounts/operator/ai/run/{LLAMA}"
    assert upstream.sent[-1].headers["authorization"] == f"Bearer {kit.OPERATOR_KEY}"
    where = {**who, "api_base_url": f"{base}/accounts"}
    embeddings = CloudflareWorkersAIEmbeddings(model_name=BGE, reject_if_busy=True, **where)
    assert embeddings.embed_documents(["a", "b"]) == [[0.5, 0.25]] * 2
    ranked = CloudflareWorkersAIReranker(model_name=RERANKER, **where).rerank("which", ["first", "second"])
    assert [result.index for result in ranked] == [1, 0]
    assert spent(customer) > 2 * kit.price_of(7, 3)


def test_the_cloudflare_sdk(customer: Customer) -> None:
    with cloudflare.Cloudflare(
        api_token=customer.token, base_url=f"{customer.farebox.url}/client/v4", max_retries=0
    ) as client:
        where: dict[str, Any] = {"account_id": customer.account_id}
        answer: Any = client.ai.run(LLAMA, **where, messages=[{"role": "user", "content": "Hi"}])
        assert answer["response"] == "Hello you"
        assert spent(customer) == kit.price_of(7, 3)
        listed: list[Any] = list(client.ai.models.list(**where, author="meta", per_page=2))
        assert LLAMA in [model["name"] for model in listed]
        assert all(model["name"].startswith("@cf/meta/") for model in listed)
        found: list[Any] = list(client.ai.models.list(**where, search="LLAMA-3.1-8b-instruct", task="Text Generation"))
        (model,) = [model for model in found if model["name"] == LLAMA]
        prices = {entry["unit"]: entry["price"] for entry in model["properties"][-1]["value"]}
        assert prices == {"per M input tokens": 1.0, "per M output tokens": 2.0}
        assert not list(client.ai.models.list(**where, task="Text Generation", search="bge-base"))
        with pytest.raises(cloudflare.BadRequestError, match="Cloudflare's format only"):
            list(client.ai.models.list(**where, format="openrouter"))


def test_the_ai_sdk_of_vercel(customer: Customer) -> None:
    reported = json.loads(run(installed_node(), "workers_ai.mjs", customer))
    assert reported == {
        "whole": ["Hello you", 3],
        "through": "Hello you",
        "streamed": ["Hello you", 3, "stop"],
        "vector": [0.5, 0.25],
        "refused": [404, 7003],
    }


def test_the_model_in_the_body(customer: Customer, upstream: Upstream) -> None:
    answer = post(customer, "", {"model": LLAMA, "input": {**HELLO, "max_tokens": 50}})
    assert answer.json() == in_envelope({"response": "Hello you", "usage": USAGE})
    assert upstream.sent[-1].json() == {**HELLO, "max_tokens": 50}
    assert post(customer, "", {"model": BGE, "input": {"text": ["x"]}}).json()["result"]["shape"] == [1, 2]
    long = {"messages": [{"role": "user", "content": "word " * 10} for _ in range(3_000)]}
    assert post(customer, "", {"input": long, "model": LLAMA}).json()["success"] is True
    assert upstream.sent[-1].json() == long


@pytest.mark.parametrize("model", ["openai/any-1", "anthropic/any-1"])
def test_models_of_other_providers_answer_in_cloudflares_envelope(customer: Customer, model: str) -> None:
    body = {**HELLO, "max_tokens": 9}
    for answer in (post(customer, model, body), post(customer, "", {"model": model, "input": body})):
        assert answer.status_code == 200, answer.text
        result = answer.json().pop("result")
        assert answer.json() == in_envelope(result)
        assert result["model"] == "any-1"
        assert "farebox-charge-usd" in answer.headers
        assert int(answer.headers["content-length"]) == len(answer.content)
    before = spent(customer)
    cached = [post(customer, model, body, **{"cf-aig-cache-ttl": "60"}) for _ in range(2)]
    until(lambda: post(customer, model, body, **{"cf-aig-cache-ttl": "60"}).headers["cf-aig-cache-status"] == "HIT")
    cached.append(post(customer, model, body, **{"cf-aig-cache-ttl": "60"}))
    assert [answer.json()["success"] for answer in cached] == [True] * 3
    assert spent(customer) > before
    streamed = post(customer, model, {**body, "stream": True}).text
    assert "event: message_stop" in streamed if model.startswith("anthropic") else "data: [DONE]" in streamed
    assert '"success"' not in streamed
    log = f"ai-gateway/gateways/default/logs/{cached[0].headers['cf-aig-log-id']}"
    stored = http.get(f"{customer.api_url}/{log}/response", headers=customer.headers)
    assert stored.json()["model"] == "any-1"


def test_a_long_document_is_in_the_envelope_too(customer: Customer, upstream: Upstream) -> None:
    kit.set_provider(customer.farebox, "groq", base_url=upstream.url)
    kit.set_price(customer.farebox, "groq", "long")
    message = {"role": "assistant", "content": "x" * 9 * 2**20}
    upstream.response = {"model": "long", "choices": [{"message": message}], "usage": USAGE}
    try:
        answer = post(customer, "groq/long", HELLO)
        assert answer.json() == in_envelope(upstream.response)
        assert spent(customer) == kit.price_of(7, 3)
    finally:
        upstream.response = workers_ai


def test_a_misspelled_model_is_not_found_and_similar_names_are_suggested(customer: Customer) -> None:
    similar = "Similar models: gpt-4o-mini"
    for path, body in (("groq/llama-3.1-8b-instnt", HELLO), ("", {"model": "deepseek/depseek-chat", "input": HELLO})):
        answer = post(customer, path, body)  # models for which the operator has no key
        assert code(answer) == (404, 7003), answer.text
        assert "Similar models: " in answer.json()["message"]
    answer = post(customer, "deepseek/deepseek-chat", HELLO)
    assert code(answer) == (400, 2905), "a key is all that is missing"
    assert "`farebox provider set deepseek --api-key-stdin < FILE`" in answer.json()["message"]
    misspelled = {"model": "gpt-4o-mni", **HELLO}
    native = http.post(f"{customer.gateway_url}/openai/chat/completions", json=misspelled, headers=customer.headers)
    step = {"provider": "openai", "endpoint": "chat/completions", "query": misspelled}
    for answer in (
        post(customer, "openai/gpt-4o-mni", HELLO),
        native,
        http.post(customer.gateway_url, json=[step], headers=customer.headers),
    ):
        assert similar in answer.json()["message"], answer.text
    nobody = {"model": "opnai/gpt-4o-mini", **HELLO}
    answer = http.post(f"{customer.gateway_url}/compat/chat/completions", json=nobody, headers=customer.headers)
    assert code(answer) == (400, 2902)


def test_errors_have_cloudflares_codes(customer: Customer) -> None:
    unknown = post(customer, "@cf/nobody/none", HELLO)
    assert code(unknown) == (404, 7003)
    assert unknown.json()["message"].startswith("Model not found")
    for model in ("nobody/none", "openai/no-price", "fast", "dynamic/r", "openai", "custom-none/m"):
        assert code(post(customer, model, HELLO)) == (404, 7003)
    bodies: list[Any] = [{"model": LLAMA}, {"model": LLAMA, "input": []}, {"input": {}}, [1]]
    for body in bodies:
        assert code(post(customer, "", body)) == (400, 7003)
    invalid = post(customer, "anthropic/any-1", {"prompt": "no messages"})
    assert code(invalid) == (400, 7003)
    assert "User Input Error" in invalid.json()["message"]
    assert code(http.get(f"{customer.api_url}/ai/run", headers=customer.headers)) == (404, 7003)
    for headers in ({"authorization": "Bearer sk-own"}, {"x-api-key": "sk-own"}, {}):
        url = f"{customer.api_url}/ai/run/{LLAMA}"
        assert code(http.post(url, json=HELLO, headers=headers)) == (401, 2009)
    poor = Customer(
        customer.farebox, account := customer.farebox.create_account(), customer.farebox.create_token(account)
    )
    assert code(post(poor, LLAMA, HELLO)) == (402, 2021)
    assert code(post(customer, LLAMA, HELLO, **{"cf-aig-gateway-id": "other"})) == (400, 2001)
    assert code(http.get(f"{customer.api_url}/ai/nothing", headers=customer.headers)) == (404, 7003)
    assert spent(customer) == 0


@pytest.mark.parametrize(
    ("model", "rates", "body", "nanos"),
    [
        ("@cf/acme/painter", {"requests_kcount": "4"}, {"prompt": "a harbour"}, 4_000_000),
        ("@cf/acme/speaker", {"input_mchars": "15"}, {"text": "Good morning"}, 12 * 15_000),
    ],
)
def test_images_and_speech_are_sold_by_request_or_character_or_not_at_all(
    customer: Customer, upstream: Upstream, model: str, rates: dict[str, str], body: dict[str, str], nanos: int
) -> None:
    services = customer.farebox.services
    at = services.clock.now_ms() - 1000
    customer.farebox.run(
        services.database.write(
            lambda connection: prices.set_price(
                connection, services.ids, by=TESTER, provider="workers-ai", model=model, rates=rates, at=at
            )
        )
    )
    assert code(post(customer, FLUX, body)) == (404, 7003)
    kit.forget(customer.farebox)
    upstream.response, upstream.content_type = PNG, "application/octet-stream"
    try:
        answer = post(customer, model, body)
    finally:
        upstream.response, upstream.content_type = workers_ai, ""
    assert (answer.content, answer.headers["content-type"]) == (PNG, "application/octet-stream")
    assert spent(customer) == nanos


def test_embeddings_models_and_messages_of_the_rest_form(customer: Customer) -> None:
    with openai.OpenAI(api_key=customer.token, base_url=f"{customer.api_url}/ai/v1", max_retries=0) as client:
        assert client.embeddings.create(model="demo/demo-1", input="a b c").data[0].embedding
        assert f"workers-ai/{LLAMA}" in {model.id for model in client.models.list()}
        assert client.responses.create(model="demo/demo-1", input="Hi").output_text
    for path in ("messages", "v1/messages"):
        answer = http.post(
            f"{customer.api_url}/ai/v1/{path}",
            json={"model": "anthropic/any-1", "max_tokens": 5, **HELLO},
            headers={"x-api-key": customer.token},
        )
        assert answer.json()["type"] == "message"


def test_no_stream_can_be_resumed(farebox: Farebox, customer: Customer) -> None:
    """No response names a run; a request for one gets Cloudflare's error for an expired run."""
    body = HELLO | {"stream": True}
    for model in (LLAMA, "openai/any-1"):
        response = http.post(f"{customer.api_url}/ai/run/{model}", json=body, headers=customer.headers)
        assert (response.status_code, response.headers.get("cf-aig-run-id")) == (200, None)
    url = f"{customer.api_url}/ai-gateway/gateways/default/run/01a2/resume?from=3"
    response = http.get(url, headers=customer.headers)
    assert (response.status_code, response.json()["errors"][0]["code"]) == (404, 2953)
    assert http.get(url, headers=farebox.funded("1").headers).status_code == 403
