"""Requests as real clients send them: compressed, with other paths, from web pages, by Codex and Claude Code."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import brotli
import httpx
import pytest

from farebox.errors import CREDIT_HELD, RATE_LIMITED, SPEND_LIMITED, Problem
from farebox.http.call_body import EXPANSION_MAX
from farebox.http.provider_errors import error_body, error_headers, error_status
from farebox.http.refusals import Pages
from tests.calls.kit import differences, log_row, price_of, set_gateway, set_price, set_provider
from tests.calls.upstream import Upstream, serving
from tests.compression import raw_deflate, zstd
from tests.sdks import openai
from tests.support import Customer, Farebox, running_farebox

CHAT = {"model": "gpt-5.4", "messages": [{"role": "user", "content": "Good morning, Acme"}]}
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
CHAT_ANSWER = {"object": "chat.completion", "choices": [{"message": {"content": "Hi"}}], "usage": USAGE}
RESPONSE_USAGE = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
PAGE = "https://app.acme.example"
CODEX = {"originator": "codex_exec", "user-agent": "codex_exec/0.171.0 (Debian 12.0.0; x86_64) xterm"}


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with serving() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def farebox(provider: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """One provider stands in for several, at the demo provider's price."""
    with running_farebox(
        tmp_path_factory.mktemp("forms"), body_limit_bytes=2**21, unseen_input="prompt=window"
    ) as served:
        models = {"openai": "gpt-5.4", "google-ai-studio": "gemini-9", "workers-ai": "@cf/acme/e", "cerebras": "acme-1"}
        models["anthropic"] = "claude-acme"
        for slug, model in models.items():
            set_provider(served, slug, base_url=provider.url)
            set_price(served, slug, model)
        yield served


@pytest.fixture
def customer(farebox: Farebox, provider: Upstream) -> Customer:
    provider.response, provider.headers = CHAT_ANSWER, {}
    provider.sent.clear()
    return farebox.funded("5")


def post(
    customer: Customer, path: str, body: object, /, headers: dict[str, str] | None = None, *, key: str = ""
) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"authorization": f"Bearer {key or customer.token}", "content-type": "application/json", **(headers or {})}
    if key:
        sent["cf-aig-authorization"] = f"Bearer {customer.token}"
    url = path if path.startswith("http") else f"{customer.gateway_url}/{path}"
    return httpx.post(url, content=content, headers=sent)


def charged(customer: Customer, response: httpx.Response) -> int:
    charge: int = customer.receipt(response.headers["cf-aig-log-id"])["charge_nanos"]
    return charge


# --- Content codings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("coding", "code"),
    [
        ("zstd", zstd),
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("br", brotli.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("gzip, zstd", lambda body: zstd(gzip.compress(body))),
        ("identity", bytes),
    ],
)
def test_a_compressed_body_is_forwarded_decoded(
    customer: Customer, provider: Upstream, coding: str, code: Callable[[bytes], bytes]
) -> None:
    body = json.dumps(CHAT | {"note": "x" * 100_000}).encode()
    response = post(customer, "openai/chat/completions", code(body), {"content-encoding": coding})
    assert response.status_code == 200, response.text
    [sent] = provider.sent
    assert sent.body == body
    assert "content-encoding" not in sent.headers
    assert sent.headers["content-length"] == str(len(body))
    assert charged(customer, response) == price_of(7, 3)
    assert log_row(customer, response.headers["cf-aig-log-id"])["tokens_in"] == 7


def test_an_unknown_coding_is_refused_but_forwarded_on_the_callers_own_key(
    customer: Customer, provider: Upstream
) -> None:
    for coding in ("compress", "gzip, gzip, gzip, gzip"):
        refused = post(customer, "openai/chat/completions", b"?", {"content-encoding": coding})
        assert (refused.status_code, refused.json()["errors"][0]["code"]) == (415, 2917)
        assert refused.headers["accept-encoding"] == "zstd, br, gzip, deflate"
    assert not provider.sent
    assert post(customer, "openai/chat/completions", b"?", {"content-encoding": "compress"}, key="sk-own").is_success
    assert (provider.sent[0].body, provider.sent[0].headers["content-encoding"]) == (b"?", "compress")


@pytest.mark.parametrize(("coding", "code"), [("zstd", zstd), ("gzip", gzip.compress), ("br", brotli.compress)])
def test_a_body_is_decoded_within_bounds(
    customer: Customer, provider: Upstream, coding: str, code: Callable[[bytes], bytes]
) -> None:
    whole = json.dumps(CHAT).encode()
    coded = code(whole)
    for large in (whole + b" " * 2**21, whole + b" " * (2**20 + 1)):  # above the limit, or expanding too much
        bomb = code(large)
        assert len(bomb) * EXPANSION_MAX < 2**20
        refused = post(customer, "openai/chat/completions", bomb, {"content-encoding": coding})
        assert (refused.status_code, refused.json()["errors"][0]["code"]) == (413, 2906)
    for broken in (coded[:-3], coded + b"more", b"{" + coded, whole):
        refused = post(customer, "openai/chat/completions", broken, {"content-encoding": coding})
        assert (refused.status_code, refused.json()["errors"][0]["code"]) == (400, 2901), broken
        assert coding in refused.json()["message"]
    assert not provider.sent


# --- Paths and names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["openai/chat/completions/", "openai//v1//chat/completions", "/openai/chat/completions//"]
)
def test_extra_slashes_from_base_urls_do_not_matter(customer: Customer, provider: Upstream, path: str) -> None:
    assert post(customer, path, CHAT).status_code == 200
    doubled = f"{customer.farebox.url}//v1//{customer.account_id}/default/{path}"
    assert post(customer, doubled, CHAT).status_code == 200
    assert [sent.path for sent in provider.sent] == ["/chat/completions"] * 2


def test_the_common_forms_may_have_their_version_in_the_path(customer: Customer, provider: Upstream) -> None:
    chat = CHAT | {"model": "openai/gpt-5.4"}
    for path in ("compat/v1/chat/completions", f"{customer.api_url}/ai/v1/chat/completions/"):
        response = post(customer, path, chat)
        assert response.status_code == 200, response.text
        assert charged(customer, response) == price_of(7, 3)
    models = httpx.get(f"{customer.gateway_url}/compat/v1/models", headers=customer.headers)
    assert models.status_code == 200, models.text
    assert models.json()["object"] == "list", models.text
    assert {sent.path for sent in provider.sent} == {"/chat/completions"}


def test_what_the_sdk_of_cerebras_asks_for_before_any_call_is_free(customer: Customer, provider: Upstream) -> None:
    """cerebras-cloud-sdk 1.91.0 (PyPI) does so whenever a client is made."""
    response = httpx.get(f"{customer.gateway_url}/cerebras/v1/tcp_warming", headers=customer.headers)
    assert response.status_code == 200, response.text
    assert [sent.path for sent in provider.sent] == ["/tcp_warming"]
    row = log_row(customer, response.headers["cf-aig-log-id"])
    assert (row["success"], row["farebox"]["charge_nanos"]) == (True, 0)


def test_embeddings_by_the_api_hosts_path(customer: Customer, provider: Upstream) -> None:
    provider.response = {"object": "list", "data": [], "usage": {"prompt_tokens": 7, "total_tokens": 7}}
    with openai.OpenAI(api_key=customer.token, base_url=f"{customer.api_url}/ai/v1", max_retries=0) as client:
        raw = client.embeddings.with_raw_response.create(model="@cf/acme/e", input="Good morning")
    assert provider.sent[0].path == "/v1/embeddings"
    assert customer.receipt(raw.headers["cf-aig-log-id"])["charge_nanos"] == price_of(7, 0)


def test_a_compaction_is_charged_like_a_response(customer: Customer, provider: Upstream) -> None:
    provider.response = {
        "id": "resp_acme",
        "object": "response.compaction",
        "created_at": 1,
        "output": [{"id": "cmp_1", "type": "compaction", "encrypted_content": "gAAA"}],
        "usage": RESPONSE_USAGE,
    }
    with openai.OpenAI(api_key=customer.token, base_url=f"{customer.gateway_url}/openai", max_retries=0) as client:
        raw = client.responses.with_raw_response.compact(model="gpt-5.4", input="A long talk at Acme")
    assert raw.parse().usage.output_tokens == 3
    assert provider.sent[0].path == "/responses/compact"
    assert customer.receipt(raw.headers["cf-aig-log-id"])["charge_nanos"] == price_of(7, 3)


def test_a_google_model_may_be_named_with_its_folder(customer: Customer, provider: Upstream) -> None:
    for path, model in (
        ("google-ai-studio/v1beta/openai/chat/completions", "models/gemini-9"),
        ("compat/chat/completions", "google/models/gemini-9"),
    ):
        response = post(customer, path, CHAT | {"model": model})
        assert response.status_code == 200, response.text
        assert charged(customer, response) == price_of(7, 3)
    assert [sent.json()["model"] for sent in provider.sent] == ["models/gemini-9"] * 2


def test_googles_tools_may_be_one_object(customer: Customer, provider: Upstream) -> None:
    provider.response = {"usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 3}}
    path = "google-ai-studio/v1beta/models/gemini-9:generateContent"
    body = {"contents": [{"parts": [{"text": "Good morning"}]}]}
    assert post(customer, path, body | {"tools": {"functionDeclarations": [{"name": "f"}]}}).status_code == 200
    assert provider.sent[0].json()["tools"] == {"functionDeclarations": [{"name": "f"}]}
    refused = post(customer, path, body | {"tools": {"googleMaps": {}}})
    assert (refused.status_code, refused.json()["error"]["details"][0]["metadata"]["code"]) == (400, "2903")


def test_a_prompt_stored_at_the_provider_needs_a_price_of_its_own(
    customer: Customer, farebox: Farebox, provider: Upstream
) -> None:
    provider.response = {"object": "response", "model": "gpt-5.4", "output": [], "usage": RESPONSE_USAGE}
    body = {"prompt": {"id": "pmpt_acme1", "version": "3"}}
    refused = post(customer, "openai/responses", body)
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (400, 2904)
    assert "prompt:pmpt_acme1" in refused.json()["message"]
    set_price(farebox, "openai", "prompt:pmpt_acme1")
    assert charged(customer, post(customer, "openai/responses", body)) == price_of(7, 3)


def test_tools_inside_the_input_are_refused_by_name(customer: Customer, provider: Upstream) -> None:
    item = {"type": "additional_tools", "role": "developer", "tools": [{"type": "image_generation"}]}
    refused = post(customer, "openai/responses", {"model": "gpt-5.4", "input": [item]})
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (400, 2903)
    assert "image_generation" in refused.json()["message"]
    assert not provider.sent


# --- Pages of other origins -------------------------------------------------------------------------------------------


def preflight(customer: Customer, origin: str = PAGE, path: str = "openai/chat/completions") -> httpx.Response:
    return httpx.options(
        f"{customer.gateway_url}/{path}",
        headers={
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,x-stainless-os",
        },
    )


def readable_by(response: httpx.Response) -> str | None:
    origin: str | None = response.headers.get("access-control-allow-origin")
    return origin


def test_pages_may_call_if_the_gateway_allows_their_origin(customer: Customer, provider: Upstream) -> None:
    provider.headers = {"access-control-allow-origin": "https://provider.example", "access-control-expose-headers": "a"}
    assert readable_by(preflight(customer)) is None
    assert readable_by(post(customer, "openai/chat/completions", CHAT, {"origin": PAGE})) is None
    set_gateway(customer, cors_origins=[PAGE])
    requested = preflight(customer)
    assert (requested.status_code, readable_by(requested), requested.content) == (204, PAGE, b"")
    assert "POST" in requested.headers["access-control-allow-methods"]
    assert requested.headers["access-control-allow-headers"] == "authorization,content-type,x-stainless-os"
    response = post(customer, "openai/chat/completions", CHAT, {"origin": PAGE})
    assert (response.status_code, readable_by(response)) == (200, PAGE)
    assert response.headers["access-control-expose-headers"] == "*"
    assert "farebox-charge-usd" in response.headers
    assert "origin" not in provider.sent[-1].headers
    refused = post(customer, "openai/chat/completions", CHAT, {"origin": PAGE, "authorization": "Bearer fbx_none"})
    assert (refused.status_code, readable_by(refused)) == (401, PAGE)
    for other in ("https://evil.example", f"{PAGE}.evil.example", "null"):
        assert readable_by(preflight(customer, other)) is None
        assert readable_by(post(customer, "openai/chat/completions", CHAT, {"origin": other})) is None


def test_the_list_of_origins_is_the_gateways_own(customer: Customer) -> None:
    gateways = f"{customer.api_url}/ai-gateway/gateways"
    needed = {
        "cache_invalidate_on_update": False,
        "cache_ttl": 0,
        "collect_logs": True,
        "rate_limiting_interval": 0,
        "rate_limiting_limit": 0,
    }
    made = httpx.post(gateways, json={"id": "pages", "cors_origins": [PAGE], **needed}, headers=customer.headers)
    assert made.json()["result"]["cors_origins"] == [PAGE]
    other = httpx.post(gateways, json={"id": "plain", **needed}, headers=customer.headers)
    assert "cors_origins" not in other.json()["result"]
    kept = httpx.put(f"{gateways}/pages", json=needed | {"cache_ttl": None}, headers=customer.headers)
    assert kept.json()["result"]["cors_origins"] == [PAGE]  # Cloudflare's SDKs do not send the field
    cleared = httpx.put(f"{gateways}/pages", json=needed | {"cors_origins": []}, headers=customer.headers)
    assert "cors_origins" not in cleared.json()["result"]
    for wrong in (["https://acme.example/page"], ["https://Acme.example"], ["acme.example"], "*", [""]):
        refused = httpx.put(f"{gateways}/pages", json=needed | {"cors_origins": wrong}, headers=customer.headers)
        assert refused.status_code == 400, wrong


# --- Codex ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["openai/chat/completions", "openai/v1/batches", "compat/responses"])
def test_a_websocket_request_is_answered_with_an_alternative(customer: Customer, path: str) -> None:
    upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    upgrade["sec-websocket-key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    with httpx.Client() as client:
        response = client.get(f"{customer.gateway_url}/{path}", headers=upgrade | customer.headers)
        assert response.status_code == 426
        assert response.json()["internalCode"] == 2916
        assert "HTTP" in response.json()["message"]
        assert (response.headers["upgrade"], response.headers["x-should-retry"]) == ("HTTP/1.1", "false")
        again = client.post(f"{customer.gateway_url}/openai/chat/completions", json=CHAT, headers=customer.headers)
        assert again.status_code == 200


def test_codex_shows_our_message_when_credit_runs_out(farebox: Farebox, provider: Upstream) -> None:
    poor = farebox.funded("0.000000001")
    body = {"model": "gpt-5.4", "input": "Good morning"}
    for headers in (CODEX, {"user-agent": "codex-tui/0.171.0"}, {"originator": "Codex Desktop"}):
        response = post(poor, "openai/responses", body, headers)
        error = response.json()["error"]
        assert (response.status_code, response.json()["httpCode"], response.json()["internalCode"]) == (429, 429, 2021)
        assert (error["type"], error["code"]) == ("usage_limit_reached", "insufficient_quota")
        assert error["message"].startswith(response.headers["x-codex-promo-message"])
        assert "Insufficient credits" in response.headers["x-codex-promo-message"]
    for path, headers in (
        ("openai/responses", {"user-agent": "OpenAI/Python 3.57.0"}),
        ("openai/responses", {"user-agent": "codexample/1"}),
    ):
        response = post(poor, path, body, headers)
        assert (response.status_code, response.json()["errors"][0]["code"]) == (402, 2021)
        assert response.headers["x-should-retry"] == "false"
    assert post(poor, "openai/chat/completions", CHAT, CODEX).status_code == 402
    assert differences(farebox) == []


def test_limits_end_a_run_of_codex_but_held_credit_does_not() -> None:
    for kind, status, named in (
        (SPEND_LIMITED, 429, "usage_limit_reached"),
        (RATE_LIMITED, 429, "usage_limit_reached"),
        (CREDIT_HELD, 503, "credit_held"),
    ):
        problem = Problem(kind, "Held by — “others”.")
        assert error_status(problem, "codex", "402") == status
        assert json.loads(error_body(problem, "codex", status, "r", Pages("", "")))["error"]["type"] == named
        shown = dict(error_headers(problem, "codex", status)).get("x-codex-promo-message")
        assert shown == ('Held by ? "others"' if status == 429 else None)
        assert error_status(problem, "openai", "429") == 429


@pytest.mark.parametrize("status", ["402", "429"])
def test_the_operator_chooses_the_status_of_no_credit(status: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_farebox(tmp_path_factory.mktemp("status"), no_credit_status=status) as served:
        poor = served.funded("0.000000001")
        requested: list[tuple[str, Any, dict[str, str]]] = [
            ("demo/v1/responses", {"model": "demo-1", "input": "x"}, CODEX),
            ("demo/v1/chat/completions", CHAT | {"model": "demo-1"}, {}),
            ("demo/v1/messages", CHAT | {"model": "demo-1", "max_tokens": 5}, {}),
        ]
        responses = [post(poor, *one) for one in requested]
        assert [str(response.status_code) for response in responses] == [status] * 3
        assert {response.headers["x-should-retry"] for response in responses} == {"false"}
        if status == "429":
            assert responses[1].json()["error"]["type"] == "insufficient_quota"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_response_of_anthropics_has_an_id_by_which_its_blocks_belong_together(
    customer: Customer, provider: Upstream, streamed: bool
) -> None:
    """Claude Code 2.1.197 writes down a message's usage with every block of it, and the header `request-id`. ccusage
    20.0.24 adds up the usage of lines without an ID."""
    usage = {"input_tokens": 7, "output_tokens": 3}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-acme", "usage": usage}
    whole = message | {"content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn"}
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}
    begun: dict[str, object] = {"type": "message_start", "message": message | {"content": []}}
    events: list[dict[str, object]] = [begun, {**delta}, {"type": "message_stop"}]
    stream = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    provider.response = stream.encode() if streamed else whole
    asked = {"model": "claude-acme", "max_tokens": 20, "messages": CHAT["messages"], "stream": streamed}
    own = post(customer, "anthropic/v1/messages", asked)
    assert (own.status_code, own.headers["request-id"]) == (200, own.headers["cf-aig-request-id"]), own.text
    provider.headers = {"Request-Id": "req_of_the_provider"}
    passed = post(customer, "anthropic/v1/messages", asked)
    assert (passed.status_code, passed.headers.get_list("request-id")) == (200, ["req_of_the_provider"])
    refused = post(customer, "anthropic/v1/messages", asked | {"model": "unpriced"})
    assert refused.headers["request-id"] == refused.json()["request_id"]
    provider.response = CHAT_ANSWER
    provider.headers = {}
    assert "request-id" not in post(customer, "openai/chat/completions", CHAT).headers
