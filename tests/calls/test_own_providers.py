"""An account's stored keys and custom providers: which key a call uses, who pays, and what no response reveals."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from farebox.model import Permission
from farebox.money import parse_usd
from farebox.storage.sql import Connection
from farebox.vault import TOKEN_PREFIX
from tests.calls.kit import OPERATOR_KEY, differences, forget, log_row, log_rows, set_gateway, set_provider
from tests.calls.upstream import Upstream, serving
from tests.engines import ON_BOTH_ENGINES
from tests.http.support import http, result
from tests.sdks import anthropic, openai
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import start_of_window

pytestmark = ON_BOTH_ENGINES

FIVE = parse_usd("5")
MODEL = "gpt-4o-mini"
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello there"}]}
CALLERS = "sk-own-key-of-the-caller"
DEFAULT, SECOND = "sk-stored-default-key-wxyz", "sk-stored-second-key-stuv"


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """The demo provider stands in for all; the operator has keys for two, and zero data retention at one of them."""
    folder = tmp_path_factory.mktemp("own")
    with running_farebox(folder, custom_networks="127.0.0.0/8", zdr_providers="openai") as served:
        for slug in ("openai", "anthropic", "groq"):
            set_provider(served, slug)
        yield served


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    return farebox.funded("5")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with serving() as upstream:
        yield upstream


def api(customer: Customer, method: str, path: str, body: object = None) -> Any:
    response = http.request(method, f"{customer.api_url}/ai-gateway/{path}", json=body, headers=customer.headers)
    return result(response)


def store(customer: Customer, alias: str, secret: str, provider: str = "openai", **more: Any) -> dict[str, Any]:
    """A stored key of the default gateway."""
    body = {"alias": alias, "default_config": alias == "default", "provider_slug": provider, "secret": secret} | more
    made: dict[str, Any] = api(customer, "POST", "gateways/default/provider_configs", body)
    return made


def custom(customer: Customer, slug: str, base_url: str, **more: Any) -> str:
    """The ID of a new custom provider, switched on."""
    body = {"name": slug.title(), "slug": slug, "base_url": base_url, "enable": True} | more
    made: str = api(customer, "POST", "custom-providers", body)["id"]
    return made


def post(
    customer: Customer, path: str, body: object = CHAT, headers: dict[str, str] | None = None, gateway: str = "default"
) -> httpx.Response:
    url = f"{customer.farebox.url}/v1/{customer.account_id}/{gateway}/{path}"
    ours = {"cf-aig-authorization": f"Bearer {customer.token}"}
    return http.post(url, json=body, headers=ours | (headers or {}))


def refused(response: httpx.Response) -> tuple[int, int]:
    """Status and code of one of our errors in any form."""
    return response.status_code, response.json()["internalCode"]


def last_seen(farebox: Farebox) -> dict[str, Any]:
    return farebox.demo_journal(1)[-1]


def used_key(farebox: Farebox) -> str:
    headers = last_seen(farebox)["headers"]
    return str(headers.get("x-api-key") or headers["authorization"].removeprefix("Bearer "))


ALIAS, NO_CREDIT = {"cf-aig-byok-alias": "second"}, {"cf-aig-no-wholesale": "true"}
BEARER = {"authorization": f"Bearer {CALLERS}"}
KEYS = {"nothing": (), "second": ("second",), "default": ("default",), "both": ("default", "second")}
MATRIX: tuple[tuple[dict[str, str], dict[str, object]], ...] = (
    # The request; for each set of stored keys, whose key is used, or the code of the refusal.
    ({}, {"nothing": OPERATOR_KEY, "second": OPERATOR_KEY, "default": DEFAULT, "both": DEFAULT}),
    (NO_CREDIT, {"nothing": 2905, "second": 2905, "default": DEFAULT, "both": DEFAULT}),
    (ALIAS, {"nothing": 2960, "second": SECOND, "default": 2960, "both": SECOND}),
    (ALIAS | NO_CREDIT, {"nothing": 2960, "second": SECOND, "default": 2960, "both": SECOND}),
    (BEARER, dict.fromkeys(KEYS, CALLERS)),
    (BEARER | ALIAS | NO_CREDIT, dict.fromkeys(KEYS, CALLERS)),
)


def test_no_other_method_is_used_with_a_stored_key(farebox: Farebox, customer: Customer, upstream: Upstream) -> None:
    """Headers that override the method are not forwarded with a stored key or the operator's."""
    upstream.response = {"object": "list", "data": []}
    overrides = {"x-http-method-override": "DELETE", "X_HTTP_Method": "DELETE", "x-method-override": "DELETE"}
    set_provider(farebox, "groq", base_url=upstream.url)
    custom(customer, "bare", upstream.url)
    custom(customer, "keyed", upstream.url, headers=json.dumps({"authorization": "Bearer of-the-account-0001"}))
    custom(customer, "stored", upstream.url)
    store(customer, "default", "sk-stored-of-custom-1", "custom-stored")
    for slug, headers, passed in (
        ("groq", {}, False),
        ("custom-keyed", {}, False),
        ("custom-stored", {}, False),
        ("custom-bare", {}, True),
        ("groq", BEARER, True),
    ):
        url = f"{farebox.url}/v1/{customer.account_id}/default/{slug}/models"
        ours = {"cf-aig-authorization": f"Bearer {customer.token}"}
        response = http.get(url, headers=ours | overrides | headers)
        assert response.status_code == 200, (slug, response.text)
        seen = {name.replace("_", "-") for name in upstream.sent[-1].headers}
        assert bool(seen & {"x-http-method-override", "x-http-method", "x-method-override"}) == passed, slug
    set_provider(farebox, "groq")


@pytest.mark.parametrize("stored", KEYS)
@pytest.mark.parametrize("byok_only", [False, True])
def test_which_key_a_call_uses(farebox: Farebox, customer: Customer, stored: str, byok_only: bool) -> None:
    set_gateway(customer, byok_only=byok_only)
    for alias in KEYS[stored]:
        store(customer, alias, {"default": DEFAULT, "second": SECOND}[alias])
    spent = 0
    for headers, outcomes in MATRIX:
        expected = outcomes[stored]
        if byok_only and expected == OPERATOR_KEY:
            expected = 2905
        common = CHAT | {"model": f"openai/{MODEL}"}
        step = {"provider": "openai", "endpoint": "chat/completions", "query": CHAT, "headers": headers}
        for path, body, sent in (
            ("openai/chat/completions", CHAT, headers),
            ("openai/v1/responses", {"model": MODEL, "input": "Hello there"}, headers),
            ("compat/chat/completions", common, headers),
            ("", [step], {}),
        ):
            before = farebox.demo_stats()["requests"]
            response = post(customer, path, body, sent)
            if isinstance(expected, int):
                assert refused(response) == (400, expected), (path, headers)
                assert response.json()["message"]
                assert farebox.demo_stats()["requests"] == before
                continue
            assert response.status_code == 200, response.text
            assert used_key(farebox) == expected, (path, headers)
            assert TOKEN_PREFIX not in json.dumps(last_seen(farebox))
            row = log_row(customer, response.headers["cf-aig-log-id"])
            assert row["cost"] > 0
            assert row["wholesale"] == (expected == OPERATOR_KEY)
            assert row.get("byok") == {DEFAULT: "default", SECOND: "second"}.get(str(expected))
            assert ("farebox-charge-usd" in response.headers) == (expected == OPERATOR_KEY)
            spent += row["farebox"]["charge_nanos"]
    assert customer.balance.posted == FIVE - spent
    assert (spent > 0) == (stored in ("nothing", "second") and not byok_only)


def test_stored_keys_serve_the_rest_form_and_the_sdks(farebox: Farebox, customer: Customer) -> None:
    store(customer, "default", DEFAULT)
    store(customer, "second", SECOND, "anthropic")
    headers = customer.headers
    body = CHAT | {"model": f"openai/{MODEL}"}
    assert http.post(f"{customer.api_url}/ai/v1/chat/completions", json=body, headers=headers).status_code == 200
    assert used_key(farebox) == DEFAULT
    with openai.OpenAI(api_key=customer.token, base_url=f"{customer.gateway_url}/openai") as client:
        chunks = list(client.chat.completions.create(**CHAT, stream=True))
        assert len(chunks) > 1
        assert used_key(farebox) == DEFAULT
    with anthropic.Anthropic(api_key=customer.token, base_url=f"{customer.gateway_url}/anthropic") as client:
        client.messages.create(model="claude-next", max_tokens=20, messages=CHAT["messages"], extra_headers=ALIAS)
        assert used_key(farebox) == SECOND
    assert customer.balance.posted == FIVE


def test_an_account_without_credit_calls_with_its_stored_key(farebox: Farebox) -> None:
    account_id = farebox.create_account()
    poor = Customer(farebox, account_id, farebox.create_token(account_id))
    store(poor, "default", DEFAULT)
    large = CHAT | {"messages": [{"role": "user", "content": "word " * 100_000}]}
    for path, body in (("openai", large), ("compat", large | {"model": f"openai/{MODEL}"})):
        assert post(poor, f"{path}/chat/completions", body).status_code == 200
        assert used_key(farebox) == DEFAULT
    assert refused(post(poor, "groq/chat/completions", CHAT))[0] in (400, 402)


def test_a_stored_key_may_call_what_cannot_be_metered(farebox: Farebox, customer: Customer) -> None:
    store(customer, "default", DEFAULT)
    response = post(customer, "openai/assistants/a1/run", {"anything": 1})
    assert response.status_code == 404, "the provider's own answer"
    assert last_seen(farebox)["path"] == "/assistants/a1/run"
    response = http.post(
        f"{customer.gateway_url}/openai/chat/completions", content=b"{nonsense", headers=customer.headers
    )
    assert response.json()["error"]["message"].startswith("the body is not JSON"), "the provider's own answer"
    assert refused(post(customer, "openai/%2e%2e/x"))[0] == 400, "but no path leads out of its base URL"


def test_without_a_token_no_stored_key_is_used(farebox: Farebox, customer: Customer) -> None:
    set_gateway(customer, authentication=False)
    store(customer, "default", DEFAULT)
    before = farebox.demo_stats()["requests"]
    url = f"{customer.gateway_url}/openai/chat/completions"
    assert http.post(url, json=CHAT).status_code == 401
    stranger = farebox.funded("5")
    assert http.post(url, json=CHAT, headers=stranger.headers).status_code == 401
    reader = farebox.create_token(customer.account_id, Permission.READ)
    assert http.post(url, json=CHAT, headers={"authorization": f"Bearer {reader}"}).status_code == 401
    custom(customer, "guarded", farebox.demo_url, headers=json.dumps({"x-secret": "of-the-account"}))
    for path, body in (("custom-guarded/v1", CHAT), ("compat", CHAT | {"model": "custom-guarded/m"})):
        denied = http.post(f"{customer.gateway_url}/{path}/chat/completions", json=body, headers=BEARER)
        assert denied.status_code in (400, 401), "nor the configured headers of a custom provider"
    assert farebox.demo_stats()["requests"] == before
    assert http.post(url, json=CHAT, headers=BEARER).status_code == 200, "with its own key it may call"


def test_keys_of_one_account_and_gateway_serve_no_other(farebox: Farebox, customer: Customer) -> None:
    other = farebox.funded("5")
    set_gateway(customer, "apart")
    store(customer, "default", DEFAULT)
    store(customer, "second", SECOND)
    for caller, gateway in ((customer, "apart"), (other, "default")):
        assert post(caller, "openai/chat/completions", gateway=gateway).status_code == 200
        assert used_key(farebox) == OPERATOR_KEY
        assert refused(post(caller, "openai/chat/completions", headers=ALIAS, gateway=gateway)) == (400, 2960)


def test_which_key_is_the_default(farebox: Farebox, customer: Customer) -> None:
    def key() -> str:
        assert post(customer, "openai/chat/completions").status_code == 200
        return used_key(farebox)

    store(customer, "default", DEFAULT, default_config=False)
    assert key() == DEFAULT, "by its alias, if none has the flag"
    store(customer, "second", SECOND, default_config=True)
    assert key() == SECOND
    store(customer, "third", CALLERS, default_config=True)
    assert key() == CALLERS, "the flag has moved on"


def test_calls_with_an_undecryptable_key_are_not_paid_from_credit(farebox: Farebox, customer: Customer) -> None:
    store(customer, "default", DEFAULT)
    provider = custom(customer, "sealed", farebox.demo_url, headers=json.dumps({"x-secret": "of-the-account"}))

    def spoil(connection: Connection) -> None:
        for statement in ("UPDATE secrets SET sealed = ?", "UPDATE custom_providers SET headers = ?"):
            where = " WHERE bucket = 0 AND account_id = ?"
            connection.execute(statement + where, (b"sealed with another key", customer.account_id))

    farebox.run(farebox.services.database.write(spoil))
    forget(farebox)
    before = farebox.demo_stats()["requests"]
    assert refused(post(customer, "openai/chat/completions")) == (400, 2961)
    assert refused(post(customer, "custom-sealed/v1/chat/completions")) == (400, 2961)
    assert farebox.demo_stats()["requests"] == before
    assert post(customer, "groq/chat/completions", CHAT | {"model": "llama-3.3-70b-versatile"}).status_code == 200
    api(customer, "PATCH", f"custom-providers/{provider}", {"headers": '{"x-secret": "anew"}'})
    assert post(customer, "custom-sealed/v1/chat/completions").status_code == 200


def test_a_change_is_seen_by_the_next_call_of_a_connection(farebox: Farebox, customer: Customer) -> None:
    with httpx.Client(headers=customer.headers) as client:
        url = f"{customer.gateway_url}/openai/chat/completions"

        def key() -> str:
            assert client.post(url, json=CHAT).status_code == 200
            return used_key(farebox)

        assert key() == OPERATOR_KEY
        made = store(customer, "default", DEFAULT)
        assert key() == DEFAULT
        api(customer, "PUT", f"gateways/default/provider_configs/{made['id']}", {"secret": SECOND})
        assert key() == SECOND
        api(customer, "DELETE", f"gateways/default/provider_configs/{made['id']}")
        assert key() == OPERATOR_KEY


def test_the_rate_limit_of_a_key(farebox: Farebox, customer: Customer) -> None:
    store(customer, "default", DEFAULT, rate_limit=2, rate_limit_period=3600)
    store(customer, "second", SECOND, rate_limit=0)
    start_of_window(3600)
    step = {"provider": "openai", "endpoint": "chat/completions", "query": CHAT}
    for path, body in (("openai/chat/completions", CHAT), ("", [step])):
        assert post(customer, path, body).status_code == 200
        assert used_key(farebox) == DEFAULT
    limited = post(customer, "openai/chat/completions")
    assert refused(limited) == (429, 2003)
    assert 0 < int(limited.headers["retry-after"]) <= 3600
    assert "“default”" in limited.json()["message"]
    assert post(customer, "openai/chat/completions", headers=ALIAS).status_code == 200, "another key has its own"
    assert post(customer, "openai/chat/completions", headers=BEARER).status_code == 200
    fallback = post(customer, "", [step, step | {"headers": ALIAS}])
    assert (fallback.status_code, fallback.headers["cf-aig-step"]) == (200, "1"), "the next step may do better"
    assert customer.balance.posted == FIVE


ZDR = {"cf-aig-zdr": "true"}


def test_zero_data_retention_is_refused_where_it_is_not_promised(farebox: Farebox, customer: Customer) -> None:
    groq = CHAT | {"model": "llama-3.3-70b-versatile"}
    api(customer, "POST", "gateways", {"id": "private", "zdr": True} | GATEWAY)
    before = farebox.demo_stats()["requests"]
    assert refused(post(customer, "groq/chat/completions", groq, ZDR)) == (400, 2963)
    assert refused(post(customer, "groq/chat/completions", groq, gateway="private")) == (400, 2963)
    assert post(customer, "anthropic/v1/messages", {}, ZDR).json()["error"]["code"] == 2963, "in the provider's form"
    assert farebox.demo_stats()["requests"] == before
    for path, body, headers, gateway in (
        ("openai/chat/completions", CHAT, ZDR, "private"),
        ("groq/chat/completions", groq, {"cf-aig-zdr": "false"}, "private"),
        ("groq/chat/completions", groq, ZDR | BEARER, "private"),
    ):
        assert post(customer, path, body, headers, gateway).status_code == 200
    step = {"provider": "groq", "endpoint": "chat/completions", "query": groq}
    relaxed = step | {"headers": {"CF-AIG-ZDR": "false"}}
    assert refused(post(customer, "", [relaxed], ZDR)) == (400, 2963)
    second = post(customer, "", [step, step | {"provider": "openai", "query": CHAT}], gateway="private")
    assert (second.status_code, second.headers["cf-aig-step"]) == (200, "1")


def test_a_header_that_protects_is_true_or_false_and_binds_every_step(farebox: Farebox, customer: Customer) -> None:
    before = farebox.demo_stats()["requests"]
    for name in ("cf-aig-no-wholesale", "cf-aig-zdr"):
        for value in ("1", "yes", ""):
            assert refused(post(customer, "openai/chat/completions", headers={name: value})) == (400, 2901), name
    relaxed = {
        "provider": "openai",
        "endpoint": "chat/completions",
        "query": CHAT,
        "headers": {"cf-aig-no-wholesale": "false"},
    }
    assert refused(post(customer, "", [relaxed], NO_CREDIT)) == (400, 2905)
    in_capitals = relaxed | {"headers": {"CF-AIG-No-Wholesale": "false"}}
    assert refused(post(customer, "", [in_capitals], NO_CREDIT)) == (400, 2905)
    assert farebox.demo_stats()["requests"] == before
    assert post(customer, "", [relaxed]).status_code == 200
    assert post(customer, "openai/chat/completions", headers={"cf-aig-no-wholesale": "False"}).status_code == 200


GATEWAY = {
    "cache_invalidate_on_update": False,
    "cache_ttl": 0,
    "collect_logs": True,
    "rate_limiting_interval": 0,
    "rate_limiting_limit": 0,
}


# --- what no response reveals
# -------------------------------------------------------------------------------------------


def test_no_response_reveals_a_stored_key(farebox: Farebox, customer: Customer, upstream: Upstream) -> None:
    masked = f"{DEFAULT[:6]}****{DEFAULT[-4:]}"
    headers = {"X-Auth": "Basic hidden-header-value-77", "x-team": "red", "x-more": "long-and-in-one-piece-88"}
    custom(customer, "echo", upstream.url, headers=json.dumps(headers))
    store(customer, "default", DEFAULT, "custom-echo")
    upstream.headers = {"x-echo": f"key {DEFAULT}"}
    completion = {
        "choices": [{"message": {"content": f"{DEFAULT} hidden-header-value-77 long-and-in-one-piece-88 red"}}],
        "model": "m",
    }
    event = b'data: {"error": {"message": "bad key ' + masked.encode() + b'"}}\n\n'
    for status, answer, stream in (
        (200, completion, False),
        (401, {"error": {"message": f"Incorrect API key: {masked}; {DEFAULT}; hidden-header-value-77"}}, False),
        (200, b"data: " + json.dumps(completion).encode() + b"\n\n" + event, True),
    ):
        upstream.response, upstream.status = answer, status
        response = post(customer, "custom-echo/v1/chat/completions", CHAT | {"stream": stream})
        assert response.status_code == status, response.text
        sent = upstream.sent[-1].headers
        assert (sent["authorization"], sent["x-auth"]) == (f"Bearer {DEFAULT}", "Basic hidden-header-value-77")
        kept = http.get(
            f"{customer.api_url}/ai-gateway/gateways/default/logs/{response.headers['cf-aig-log-id']}/response",
            headers=customer.headers,
        )
        for text in (response.text, str(response.headers), kept.text):
            for secret in (DEFAULT, DEFAULT[-4:], "hidden-header-value-77", "long-and-in-one-piece-88"):
                assert secret not in text, text
    upstream.headers, upstream.status = {}, 200
    rows = json.dumps(log_rows(customer))
    assert DEFAULT not in rows


# --- custom providers -------------------------------------------------------------------------------------------------


def test_a_custom_provider_is_called_by_its_paths(farebox: Farebox, customer: Customer) -> None:
    headers = json.dumps({"X-Tenant": "acme", "User-Agent": "acme-gateway"})
    custom(customer, "mine", farebox.demo_url, headers=headers)
    calls = (
        ("custom-mine/v1/chat/completions?trace=1", CHAT, "/v1/chat/completions"),
        ("custom-mine/v1/responses", {"model": "m", "input": "Hello there"}, "/v1/responses"),
        ("custom-mine/v1/embeddings", {"model": "m", "input": "Hello there"}, "/v1/embeddings"),
        ("custom-mine/v1/messages", CHAT | {"max_tokens": 9}, "/v1/messages"),
        (
            "custom-mine/v1beta/models/m:generateContent",
            {"contents": [{"parts": [{"text": "Hello there"}]}]},
            "/v1beta/models/m:generateContent",
        ),
        ("compat/chat/completions", CHAT | {"model": "custom-mine/m"}, "/v1/chat/completions"),
        ("compat/embeddings", {"model": "custom-mine/m", "input": "Hello there"}, "/v1/embeddings"),
    )
    for path, body, seen in calls:
        response = post(customer, path, body)
        assert response.status_code == 200, (path, response.text)
        request = last_seen(farebox)
        assert request["path"] == seen
        assert (request["headers"]["x-tenant"], request["headers"]["user-agent"]) == ("acme", "acme-gateway")
        assert "authorization" not in request["headers"]
        row = log_row(customer, response.headers["cf-aig-log-id"])
        assert (row["provider"], row["wholesale"], row["cost"]) == ("custom-mine", False, 0)
        assert row["tokens_in"] > 0, path
    for form in ("chat/completions", "messages"):
        url, common = f"{customer.api_url}/ai/v1/{form}", CHAT | {"model": "custom-mine/m", "max_tokens": 9}
        assert http.post(url, json=common, headers=customer.headers).status_code == 200
        assert last_seen(farebox)["path"] == f"/v1/{form}"
        assert TOKEN_PREFIX not in json.dumps(last_seen(farebox))
    step = {"provider": "custom-mine", "endpoint": "v1/chat/completions", "query": CHAT, "headers": BEARER}
    assert post(customer, "", [step]).status_code == 200
    assert used_key(farebox) == CALLERS
    other = post(customer, "custom-mine/v7/anything", {"a": 1})
    assert (other.status_code, last_seen(farebox)["path"]) == (404, "/v7/anything")
    assert customer.balance.posted == FIVE


def test_a_base_url_with_a_version_takes_common_paths_without_one(farebox: Farebox, customer: Customer) -> None:
    custom(customer, "versioned", f"{farebox.demo_url}/v1/")
    store(customer, "default", DEFAULT, "versioned")
    for path, body in (
        ("compat/chat/completions", CHAT | {"model": "custom-versioned/m"}),
        ("custom-versioned/chat/completions", CHAT),
    ):
        assert post(customer, path, body).status_code == 200
        assert (last_seen(farebox)["path"], used_key(farebox)) == ("/v1/chat/completions", DEFAULT)
    assert post(customer, "custom-versioned/messages", CHAT | {"max_tokens": 9}).status_code == 200
    assert last_seen(farebox)["headers"]["x-api-key"] == DEFAULT, "the path that Anthropic's API has"


def test_a_disabled_unknown_or_foreign_custom_provider_is_refused(farebox: Farebox, customer: Customer) -> None:
    provider_id = custom(customer, "off", farebox.demo_url, enable=False)
    before = farebox.demo_stats()["requests"]
    path = "custom-off/v1/chat/completions"
    assert refused(post(customer, path)) == (400, 2962)
    assert refused(post(customer, "compat/chat/completions", CHAT | {"model": "custom-off/m"})) == (400, 2962)
    assert refused(post(customer, "custom-none/v1/chat/completions")) == (400, 2902)
    assert refused(post(customer, "compat/chat/completions", CHAT | {"model": "custom-none/m"})) == (400, 2902)
    api(customer, "PATCH", f"custom-providers/{provider_id}", {"enable": True})
    other = farebox.funded("5")
    assert refused(post(other, path)) == (400, 2902)
    assert farebox.demo_stats()["requests"] == before
    assert post(customer, path).status_code == 200
    assert refused(post(customer, path, headers=ALIAS)) == (400, 2960)
    store(customer, "second", SECOND, "custom-off")
    assert post(customer, path, headers=ALIAS).status_code == 200
    assert used_key(farebox) == SECOND
    api(customer, "PATCH", f"custom-providers/{provider_id}", {"slug": "renamed"})
    assert post(customer, "custom-renamed/v1/chat/completions", headers=ALIAS).status_code == 200
    assert used_key(farebox) == SECOND, "its keys were kept"
    api(customer, "DELETE", f"custom-providers/{provider_id}")
    assert refused(post(customer, "custom-renamed/v1/chat/completions")) == (400, 2902)
    assert api(customer, "GET", "gateways/default/provider_configs") == []


def test_costs_of_a_custom_provider_are_logged_and_not_charged(farebox: Farebox, customer: Customer) -> None:
    provider = custom(customer, "priced", farebox.demo_url)
    for cost in (
        {"model": "big-1", "cost_in": 0.001, "cost_out": 0.01},
        {"model": "big-", "model_rule": "starts-with", "cost_in": 0.1},
        {"model": "small", "model_rule": "contains", "token_pricing": {"total_tokens": 0.5}},
        {"model": "very-small", "cost_in": 1, "enable": False},
        {"model": "small-but", "model_rule": "starts-with", "weight": 7, "cost_out": 2},
        {"model": "cached", "cost_in": 0.1, "token_pricing": {"input_cached_tokens": 0.01, "input_audio_tokens": 0.3}},
        {"model": "seen", "token_pricing": {"input_image_count": 0.25}},
    ):
        api(customer, "POST", "custom-providers/costs", {"account_provider_id": provider} | cost)

    def cost_of(model: str, text: str = "one two demo:tokens=3", **more: Any) -> float:
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 10} | more
        response = post(customer, "custom-priced/v1/chat/completions", body)
        assert response.status_code == 200, response.text
        row = log_row(customer, response.headers["cf-aig-log-id"])
        assert row["farebox"]["charge_nanos"] == 0
        assert row["custom_cost"] is (model != "free")
        cost: float = row["cost"]
        return cost

    first = post(customer, "custom-priced/v1/chat/completions", {"model": "free", "messages": CHAT["messages"]})
    assert log_row(customer, first.headers["cf-aig-log-id"])["custom_cost"] is False
    row = log_rows(customer)[0]
    assert (row["cost"], row["custom_cost"]) == (0, False)
    words = "one two demo:tokens=3"
    cost_of("free", words)
    tokens_in, tokens_out = (log_rows(customer)[0][name] for name in ("tokens_in", "tokens_out"))
    assert tokens_out == 3
    assert cost_of("BIG-1") == pytest.approx(tokens_in * 0.001 + 3 * 0.01)
    assert cost_of("big-2") == pytest.approx(tokens_in * 0.1)
    assert cost_of("very-small") == pytest.approx((tokens_in + 3) * 0.5)
    assert cost_of("small-but-heavy") == pytest.approx(3 * 2)
    assert cost_of("cached", words + " cached=1") == pytest.approx((tokens_in - 1) * 0.1 + 0.01, abs=0.11)
    image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
    listed = http.get(f"{customer.gateway_url}/compat/models", headers=customer.headers).json()["data"]
    ours = [model["id"] for model in listed if model["owned_by"] == "custom-priced"]
    assert ours == ["custom-priced/big-1", "custom-priced/cached", "custom-priced/seen"]
    assert not any(model["owned_by"] == "mistral" for model in listed)
    store(customer, "default", DEFAULT, "mistral")
    listed = http.get(f"{customer.gateway_url}/compat/models", headers=customer.headers).json()["data"]
    assert any(model["owned_by"] == "mistral" for model in listed)
    assert cost_of("seen", messages=[{"role": "user", "content": image}]) == pytest.approx(0.25)
    assert customer.balance.posted == FIVE


def test_no_cost_is_too_large_for_the_log_and_the_spend_limits(
    farebox: Farebox, customer: Customer, upstream: Upstream
) -> None:
    provider = custom(customer, "expensive", upstream.url)
    cost = {"account_provider_id": provider, "model": "m", "cost_in": 1000, "cost_out": 1000}
    api(customer, "POST", "custom-providers/costs", cost)

    def says(tokens_out: int) -> None:
        usage = {"prompt_tokens": 4_000_000, "completion_tokens": tokens_out, "total_tokens": 4_000_000 + tokens_out}
        upstream.says(json.dumps({"object": "chat.completion", "model": "m", "choices": [], "usage": usage}).encode())

    says(13_000_000)
    response = post(customer, "custom-expensive/v1/chat/completions", CHAT | {"model": "m", "n": 100})
    assert response.status_code == 200, response.text
    row = log_row(customer, response.headers["cf-aig-log-id"])
    assert (row["tokens_out"], row["cost"]) == (13_000_000, (2**53 - 1) / 10**9)
    rules = [{"id": "all", "limit": 1_000_000_000, "limitType": "cost", "window": 86_400}]
    api(customer, "POST", "gateways", {"id": "expensive", "spend_limits": {"enabled": True, "rules": rules}} | GATEWAY)
    says(100_000)
    body = CHAT | {"model": "m"}
    assert post(customer, "custom-expensive/v1/chat/completions", body, gateway="expensive").status_code == 200
    left = http.get(f"{customer.api_url}/farebox/gateways/expensive/spend-limits", headers=customer.headers).json()[
        "result"
    ]
    assert [(rule["spent_nanos"], rule["held_nanos"]) for rule in left] == [(2**53 - 1, 0)]


def test_spend_limits_count_what_a_custom_provider_costs(farebox: Farebox, customer: Customer) -> None:
    rules = [{"id": "all", "limit": 1, "limitType": "cost", "window": 86_400}]
    api(customer, "POST", "gateways", {"id": "limited", "spend_limits": {"enabled": True, "rules": rules}} | GATEWAY)
    provider = custom(customer, "counted", farebox.demo_url)
    cost = {"account_provider_id": provider, "model": "m", "cost_out": 0.2}
    api(customer, "POST", "custom-providers/costs", cost)

    def call(model: str) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "demo:tokens=4"}], "max_tokens": 4}
        return post(customer, "custom-counted/v1/chat/completions", body, gateway="limited")

    assert call("m").status_code == 200
    assert refused(call("m")) == (429, 2045)
    assert call("another").status_code == 200, "a free call is not limited"
    assert (customer.balance.posted, customer.balance.held) == (FIVE, 0)


def test_a_redirect_is_not_followed(farebox: Farebox, customer: Customer, upstream: Upstream) -> None:
    custom(customer, "moved", upstream.url)
    before = farebox.demo_stats()["requests"]
    upstream.status, upstream.headers = 307, {"location": f"{farebox.demo_url}/v1/chat/completions"}
    response = post(customer, "custom-moved/v1/chat/completions")
    assert response.status_code == 307
    assert farebox.demo_stats()["requests"] == before
    upstream.status, upstream.headers = 200, {}


@pytest.mark.parametrize(
    "content_type", ["text/html", "image/svg+xml", "application/json;,text/html", "TEXT/XML", "text/plain"]
)
def test_no_response_of_a_custom_provider_is_rendered_as_a_page(
    farebox: Farebox, customer: Customer, upstream: Upstream, content_type: str
) -> None:
    """Otherwise a link with one account's token could run a script in the origin of another's billing page."""
    custom(customer, "pages", upstream.url)
    upstream.says(b"<script>alert(document.domain)</script>", content_type)
    upstream.headers = {"refresh": "0;url=https://elsewhere.example", "service-worker-allowed": "/", "nel": "{}"}
    response = http.post(f"{customer.gateway_url}/custom-pages/page?key={customer.token}")
    upstream.headers = {}
    assert response.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert not {"refresh", "service-worker-allowed", "nel"} & set(response.headers)


def test_a_provider_that_leads_back_to_farebox_ends(farebox: Farebox, customer: Customer) -> None:
    """Its headers contain a token of the account, so each pass is an ordinary call."""
    token = json.dumps({"x-api-key": customer.token})
    custom(customer, "mirror", f"{customer.gateway_url}/custom-mirror", headers=token)
    response = post(customer, "custom-mirror/v1/chat/completions")
    assert refused(response) == (400, 2901)
    assert "leads back here" in response.json()["message"]
    assert len(log_rows(customer)) == 3


def test_a_key_in_the_request_replaces_a_configured_one(farebox: Farebox, customer: Customer) -> None:
    custom(customer, "keyed", farebox.demo_url, headers=json.dumps({"X-Api-Key": "set-by-the-account", "x-more": "1"}))
    path = "custom-keyed/v1/chat/completions"
    for headers, seen in (({}, "set-by-the-account"), (BEARER, None)):
        assert post(customer, path, headers=headers).status_code == 200
        assert last_seen(farebox)["headers"].get("x-api-key") == seen
        assert last_seen(farebox)["headers"]["x-more"] == "1"
    store(customer, "default", DEFAULT, "custom-keyed")
    assert post(customer, path).status_code == 200
    assert (used_key(farebox), last_seen(farebox)["headers"].get("x-api-key")) == (DEFAULT, None)


def test_the_books_balance(farebox: Farebox) -> None:
    assert differences(farebox) == []


def test_without_an_allowed_network_nothing_private_is_called(
    engine: str, tmp_path_factory: pytest.TempPathFactory, upstream: Upstream
) -> None:
    """Tested with this machine's host name, which a check of the URL's text cannot recognize as private."""
    with running_farebox(tmp_path_factory.mktemp("guarded")) as farebox:
        customer, before = farebox.funded("5"), len(upstream.sent)
        port = upstream.url.rpartition(":")[2]
        custom(customer, "name", f"https://localhost:{port}")
        response = post(customer, "custom-name/v1/chat/completions")
        assert refused(response) == (400, 2964), response.text
        assert "localhost" not in response.text
        assert len(upstream.sent) == before
