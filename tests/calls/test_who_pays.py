"""Whose key is used, who is charged, and which secrets are sent where."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from farebox.model import Balance, Permission
from farebox.money import parse_usd
from farebox.storage.accounts import list_tokens, revoke_token
from farebox.storage.gateways import find_gateway
from farebox.vault import TOKEN_PREFIX
from tests.calls.kit import OPERATOR_KEY, differences, log_row, log_rows, price_of, set_gateway, set_price, set_provider
from tests.sdks import anthropic, genai, openai
from tests.support import Customer, Farebox, running_farebox

OWN_KEY = "sk-own-key-of-the-caller"
FIVE = parse_usd("5")
CHAT = {"model": "demo-1", "messages": [{"role": "user", "content": "Hello there"}]}

SET_UP = (
    *("openai", "anthropic", "google-ai-studio", "groq", "mistral", "deepseek", "grok", "openrouter", "cohere"),
    *("alibaba", "vercel-ai-gateway"),
)


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """The operator has keys for the providers in SET_UP; the demo provider stands in for all of them."""
    with running_farebox(tmp_path_factory.mktemp("payers")) as served:
        for slug in SET_UP:
            set_provider(served, slug)
        yield served


@pytest.fixture
def customer(farebox: Farebox) -> Customer:
    return farebox.funded("5")


def call(
    customer: Customer, path: str, body: object, headers: dict[str, str] | None = None, *, gateway: str = "default"
) -> httpx.Response:
    """A POST to a gateway, with only the credentials in `headers`."""
    return httpx.post(
        f"{customer.farebox.url}/v1/{customer.account_id}/{gateway}/{path}",
        json=body,
        headers=headers or {},
    )


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def ours(customer: Customer) -> dict[str, str]:
    return {"cf-aig-authorization": f"Bearer {customer.token}"}


def code(response: httpx.Response) -> tuple[int, int]:
    """Status and code of one of our errors, in OpenAI's form."""
    return response.status_code, response.json()["errors"][0]["code"]


def last_seen(farebox: Farebox) -> dict[str, Any]:
    """The latest request that reached the provider."""
    return farebox.demo_journal(1)[-1]


def requests(farebox: Farebox) -> int:
    return farebox.demo_stats()["requests"]


# --- the caller's own key ---------------------------------------------------------------------------------------------

OWN_KEY_CALLS: dict[str, tuple[str, dict[str, str], object]] = {
    "authorization": ("openai/chat/completions", bearer(OWN_KEY), CHAT | {"model": "gpt-4o-mini"}),
    "x-api-key": (
        "anthropic/v1/messages",
        {"x-api-key": OWN_KEY},
        {"model": "claude-sonnet-4-5", "max_tokens": 50, "messages": CHAT["messages"]},
    ),
    "x-goog-api-key": (
        "google-ai-studio/v1beta/models/gemini-2.5-flash:generateContent",
        {"x-goog-api-key": OWN_KEY},
        {"contents": [{"parts": [{"text": "Hello there"}]}]},
    ),
    "query": (
        f"google-ai-studio/v1beta/models/gemini-2.5-flash:generateContent?key={OWN_KEY}&trace=1",
        {},
        {"contents": [{"parts": [{"text": "Hello there"}]}]},
    ),
    "compat": ("compat/chat/completions", bearer(OWN_KEY), CHAT | {"model": "openai/gpt-4o-mini"}),
}


@pytest.mark.parametrize("way", OWN_KEY_CALLS)
def test_an_own_key_is_forwarded_untouched_and_nothing_is_charged(
    farebox: Farebox, customer: Customer, way: str
) -> None:
    path, headers, body = OWN_KEY_CALLS[way]
    response = call(customer, path, body, ours(customer) | headers)
    assert response.status_code == 200, response.text
    seen = last_seen(farebox)
    for name, value in headers.items():
        assert seen["headers"][name] == value
    if way == "query":
        assert seen["query"] == f"key={OWN_KEY}&trace=1"
    assert OPERATOR_KEY not in json.dumps(seen)
    assert TOKEN_PREFIX not in json.dumps(seen)

    assert customer.balance.posted == FIVE
    assert "farebox-charge-usd" not in response.headers
    row = log_row(customer, response.headers["cf-aig-log-id"])
    assert row["cost"] > 0, "it is logged with the caller's cost"
    assert row["tokens_out"] > 0
    assert row["wholesale"] is False
    assert (row["farebox"]["charge_nanos"], row["farebox"]["outcome"]) == (0, "own_key")
    assert customer.receipt(row["id"])["charge_nanos"] == 0


def test_an_own_key_needs_no_money(farebox: Farebox) -> None:
    account_id = farebox.create_account()
    poor = Customer(farebox, account_id, farebox.create_token(account_id))
    response = call(poor, "openai/chat/completions", CHAT | {"model": "gpt-4o-mini"}, ours(poor) | bearer(OWN_KEY))
    assert response.status_code == 200, response.text


def test_an_own_key_may_call_what_cannot_be_metered_or_priced(farebox: Farebox, customer: Customer) -> None:
    headers = ours(customer) | bearer(OWN_KEY)
    response = call(customer, "openai/chat/completions", CHAT | {"model": "model-of-tomorrow"}, headers)
    assert response.status_code == 200
    row = log_row(customer, response.headers["cf-aig-log-id"])
    assert (row["cost"], row["farebox"]["outcome"]) == (0, "own_key")
    response = call(customer, "openai/assistants/a1/run", {"anything": 1}, headers)
    assert response.status_code == 404, "the provider's own answer"
    assert "demo provider" in response.text
    assert last_seen(farebox)["path"] == "/assistants/a1/run"


def test_with_an_own_key_an_unreadable_body_is_forwarded(farebox: Farebox, customer: Customer) -> None:
    response = httpx.post(
        f"{customer.gateway_url}/openai/chat/completions",
        content=b"{nonsense",
        headers=ours(customer) | bearer(OWN_KEY),
    )
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("the body is not JSON"), "the provider's error, unchanged"
    assert last_seen(farebox)["body"] == "{nonsense"


# --- our token and the operator's key ---------------------------------------------------------------------------------

TOKEN_PLACES: dict[str, Callable[[str], tuple[dict[str, str], str]]] = {
    "authorization": lambda token: ({"authorization": f"Bearer {token}"}, ""),
    "authorization, bare": lambda token: ({"authorization": token}, ""),
    "x-api-key": lambda token: ({"x-api-key": token}, ""),
    "x-goog-api-key": lambda token: ({"x-goog-api-key": token}, ""),
    "api-key": lambda token: ({"api-key": token}, ""),
    "cf-aig-authorization": lambda token: ({"cf-aig-authorization": f"Bearer {token}"}, ""),
    "twice": lambda token: ({"cf-aig-authorization": token, "x-api-key": token, "authorization": token}, ""),
    "query": lambda token: ({}, f"?key={token}&trace=1"),
}


@pytest.mark.parametrize("provider", ["openai/chat/completions", "anthropic/v1/chat/completions"])
@pytest.mark.parametrize("place", TOKEN_PLACES)
def test_our_token_is_accepted_in_any_header_and_never_forwarded(
    farebox: Farebox, customer: Customer, place: str, provider: str
) -> None:
    headers, query = TOKEN_PLACES[place](customer.token)
    model = "gpt-4o-mini" if provider.startswith("openai") else "claude-sonnet-4-5"
    response = call(customer, provider + query, CHAT | {"model": model}, headers)
    assert response.status_code == 200, response.text
    assert parse_usd(response.headers["farebox-charge-usd"]) == FIVE - customer.balance.posted > 0
    seen = last_seen(farebox)
    assert TOKEN_PREFIX not in json.dumps(seen)
    assert seen["headers"]["authorization"] == f"Bearer {OPERATOR_KEY}"
    assert [name for name in seen["headers"] if name.startswith(("cf-", "farebox-"))] == []
    assert seen["query"] == ("trace=1" if place == "query" else "")


def test_with_an_own_key_our_token_is_not_forwarded(farebox: Farebox, customer: Customer) -> None:
    headers = {"x-api-key": customer.token, "authorization": f"Bearer {OWN_KEY}"}
    response = call(customer, "openai/chat/completions", CHAT | {"model": "gpt-4o-mini"}, headers)
    assert response.status_code == 200
    seen = last_seen(farebox)
    assert seen["headers"]["authorization"] == f"Bearer {OWN_KEY}"
    assert TOKEN_PREFIX not in json.dumps(seen)
    assert customer.balance.posted == FIVE


def test_connection_headers_are_not_forwarded(farebox: Farebox, customer: Customer) -> None:
    private = {
        "cookie": "session=1",
        "x-forwarded-for": "10.0.0.1",
        "forwarded": "for=10.0.0.1",
        "x-real-ip": "10.0.0.1",
        "via": "1.1 proxy",
        "proxy-authorization": "Basic eA==",
        "cf-aig-metadata": '{"team": "x"}',
        "cf-connecting-ip": "10.0.0.1",
        "x-auth-email": "someone@example.com",
        "x-auth-key": "k",
    }
    response = call(customer, "openai/chat/completions", CHAT | {"model": "gpt-4o-mini"}, ours(customer) | private)
    assert response.status_code == 200
    seen = last_seen(farebox)["headers"]
    assert set(seen).isdisjoint(private)
    assert seen["accept-encoding"] == "identity", "a compressed response could not be metered"
    assert seen["host"] == farebox.demo_url.removeprefix("http://")


@pytest.mark.parametrize("blank", ["", "Bearer"])
def test_a_blank_key_is_no_key(farebox: Farebox, customer: Customer, blank: str) -> None:
    """SDKs that always send the header leave it blank if they have no key."""
    headers = ours(customer) | {"authorization": blank}
    response = call(customer, "openai/chat/completions", CHAT | {"model": "gpt-4o-mini"}, headers)
    assert response.status_code == 200, response.text
    assert "farebox-charge-usd" in response.headers
    assert last_seen(farebox)["headers"]["authorization"] == f"Bearer {OPERATOR_KEY}"


# --- what SDKs send to each provider ----------------------------------------------------------------------------------

PATHS: dict[str, tuple[str, str, str]] = {
    # The client's path (with the client that sends it), the path that reaches the provider, the model.
    "openai py": ("openai/chat/completions", "/chat/completions", "gpt-4o-mini"),
    "openai with v1": ("openai/v1/chat/completions", "/chat/completions", "gpt-4o-mini"),
    "groq py": ("groq/openai/v1/chat/completions", "/chat/completions", "llama-3.3-70b-versatile"),
    "groq by Cloudflare": ("groq/chat/completions", "/chat/completions", "llama-3.3-70b-versatile"),
    "mistral py": ("mistral/v1/chat/completions", "/chat/completions", "mistral-small-latest"),
    "deepseek": ("deepseek/chat/completions", "/chat/completions", "deepseek-chat"),
    "grok": ("grok/v1/chat/completions", "/chat/completions", "grok-4"),
    "openrouter": ("openrouter/chat/completions", "/chat/completions", "openai/gpt-4o-mini"),
    "anthropic's compatible chat": ("anthropic/v1/chat/completions", "/v1/chat/completions", "claude-sonnet-4-5"),
    "google's compatible chat": (
        "google-ai-studio/v1beta/openai/chat/completions",
        "/v1beta/openai/chat/completions",
        "gemini-2.5-flash",
    ),
    "cohere's compatible chat": (
        "cohere/compatibility/v1/chat/completions",
        "/compatibility/v1/chat/completions",
        "command-r",
    ),
    "compat, openai": ("compat/chat/completions", "/chat/completions", "openai/gpt-4o-mini"),
    "compat, anthropic": ("compat/chat/completions", "/v1/chat/completions", "anthropic/claude-sonnet-4-5"),
    "compat, anthropic with a dot": ("compat/chat/completions", "/v1/chat/completions", "anthropic/claude-sonnet-4.5"),
    "compat, google": (
        "compat/chat/completions",
        "/v1beta/openai/chat/completions",
        "google-ai-studio/gemini-2.5-flash",
    ),
    "compat, xai": ("compat/chat/completions", "/chat/completions", "xai/grok-4"),
    "compat, groq": ("compat/chat/completions", "/chat/completions", "groq/llama-3.3-70b-versatile"),
    "compat, mistral": ("compat/chat/completions", "/chat/completions", "mistral/mistral-small-latest"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("client", PATHS)
def test_the_path_that_a_client_sends_arrives_and_is_charged(
    farebox: Farebox, customer: Customer, client: str, stream: bool
) -> None:
    path, upstream, model = PATHS[client]
    if client.startswith("openrouter"):
        set_price(farebox, "openrouter", model)
    response = call(customer, path, CHAT | {"model": model, "stream": stream}, ours(customer))
    assert response.status_code == 200, response.text
    seen = last_seen(farebox)
    assert seen["path"] == upstream
    body = json.loads(seen["body"])
    if path.startswith("compat"):
        assert body["model"] == model.partition("/")[2].replace(".5", "-5" if "claude" in model else ".5")
    receipt = customer.receipt(response.headers["cf-aig-log-id"])
    if stream and "stream_options" not in body:
        # Mistral, Groq and Perplexity report usage unrequested; the stand-in does not, so the output was counted.
        assert receipt["usage_source"] == "counted"
    else:
        assert receipt["usage_source"] == "provider"
    assert receipt["outcome"] == "charged"
    assert 0 < receipt["charge_nanos"] == FIVE - customer.balance.posted


def test_the_sdks_reach_their_own_providers_paths(farebox: Farebox, customer: Customer) -> None:
    def paid() -> int:
        rows = log_rows(customer)
        assert rows[0]["farebox"]["outcome"] == "charged"
        assert FIVE - customer.balance.posted == sum(row["farebox"]["charge_nanos"] for row in rows)
        charge: int = rows[0]["farebox"]["charge_nanos"]
        return charge

    messages: list[Any] = CHAT["messages"]  # type: ignore[assignment]
    with ExitStack() as stack:
        one = stack.enter_context(openai.OpenAI(api_key=customer.token, base_url=f"{customer.gateway_url}/openai"))
        response = one.chat.completions.create(model="gpt-4o-mini", messages=messages)
        assert response.usage is not None
        assert paid() == response.usage.prompt_tokens * 150 + response.usage.completion_tokens * 600
        assert one.embeddings.create(model="text-embedding-3-small", input="Hello there").usage.prompt_tokens == 2
        assert paid() == 2 * 20
        assert one.responses.create(model="gpt-4o-mini", input="Hello there").usage
        assert paid() > 0

        two = stack.enter_context(
            anthropic.Anthropic(api_key=customer.token, base_url=f"{customer.gateway_url}/anthropic")
        )
        message = two.messages.create(model="claude-sonnet-4-6", max_tokens=100, messages=messages)
        assert paid() == message.usage.input_tokens * 3_000 + message.usage.output_tokens * 15_000
        seen = last_seen(farebox)
        assert seen["headers"]["x-api-key"] == OPERATOR_KEY
        assert "authorization" not in seen["headers"]
        assert seen["headers"]["anthropic-version"]
        with two.messages.stream(model="claude-sonnet-4-6", max_tokens=100, messages=messages) as stream:
            usage = stream.get_final_message().usage
        assert paid() == usage.input_tokens * 3_000 + usage.output_tokens * 15_000

        three = stack.enter_context(
            genai.Client(
                api_key=customer.token,
                http_options=genai.types.HttpOptions(base_url=f"{customer.gateway_url}/google-ai-studio"),
            )
        )
        generated = three.models.generate_content(model="gemini-2.5-flash", contents="Hello there").usage_metadata
        assert generated is not None
        assert generated.prompt_token_count is not None
        assert generated.candidates_token_count is not None
        assert paid() == generated.prompt_token_count * 300 + generated.candidates_token_count * 2_500
        assert last_seen(farebox)["headers"]["x-goog-api-key"] == OPERATOR_KEY
        assert list(three.models.generate_content_stream(model="gemini-2.5-flash", contents="Hello there"))
        assert paid() > 0


# --- refused before the call ------------------------------------------------------------------------------------------


def test_a_gateway_may_require_own_keys(farebox: Farebox, customer: Customer) -> None:
    set_gateway(customer, "own-only", byok_only=True)
    before = requests(farebox)
    for headers in (ours(customer), ours(customer) | {"cf-aig-no-wholesale": "false"}):
        response = call(
            customer, "openai/chat/completions", CHAT | {"model": "gpt-4o-mini"}, headers, gateway="own-only"
        )
        assert code(response) == (400, 2905)
    assert requests(farebox) == before
    headers = ours(customer) | bearer(OWN_KEY)
    response = call(customer, "openai/chat/completions", CHAT | {"model": "gpt-4o-mini"}, headers, gateway="own-only")
    assert response.status_code == 200


def test_a_caller_may_refuse_to_pay(farebox: Farebox, customer: Customer) -> None:
    before = requests(farebox)
    headers = ours(customer) | {"cf-aig-no-wholesale": "true"}
    response = call(customer, "openai/chat/completions", CHAT | {"model": "gpt-4o-mini"}, headers)
    assert code(response) == (400, 2905)
    assert requests(farebox) == before
    assert customer.balance.posted == FIVE


def test_the_error_without_an_operators_key_says_what_to_do(farebox: Farebox, customer: Customer) -> None:
    before = requests(farebox)
    response = call(customer, "perplexity-ai/chat/completions", CHAT | {"model": "sonar"}, ours(customer))
    assert code(response) == (400, 2905)
    assert "farebox provider set perplexity-ai" in response.json()["message"]
    assert requests(farebox) == before


@pytest.mark.parametrize(
    "path",
    ["openai/fine_tuning/jobs", "openai/assistants", "openai/chat/completions/../assistants", "openai/vector_stores"],
)
def test_a_path_that_cannot_be_metered_is_not_called_on_the_operators_key(
    farebox: Farebox, customer: Customer, path: str
) -> None:
    before = requests(farebox)
    response = call(customer, path, CHAT, ours(customer))
    assert response.status_code == 400, response.text
    assert response.json()["internalCode"] == 2903
    assert requests(farebox) == before
    assert customer.balance.posted == FIVE


GENERATE = "google-ai-studio/v1beta/models/gemini-2.5-flash:generateContent"


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("fields=candidates", {}),
        ("%66ields=candidates", {}),
        ("%24fields=candidates", {}),
        ("alt=proto", {}),
        ("callback=f", {}),
        ("%24httpHeaders=X-Goog-FieldMask%3Acandidates", {}),
        ("k%65y=of-somebody", {}),
        ("", {"x-goog-fieldmask": "candidates"}),
        ("", {"x-http-method-override": "DELETE"}),
    ],
)
def test_options_that_hide_usage_are_dropped_on_the_operators_key(
    farebox: Farebox, customer: Customer, query: str, headers: dict[str, str]
) -> None:
    body = {"contents": [{"parts": [{"text": "Hello there"}]}]}
    response = call(customer, f"{GENERATE}?{query}&trace=1", body, ours(customer) | headers)
    assert response.status_code == 200, response.text
    seen = last_seen(farebox)
    assert seen["query"] == "trace=1"
    assert headers.keys().isdisjoint(seen["headers"])
    response = call(
        customer, f"{GENERATE}?{query}&trace=1", body, ours(customer) | {"x-goog-api-key": OWN_KEY} | headers
    )
    assert response.status_code == 200, response.text
    seen = last_seen(farebox)
    assert seen["query"] == f"{query}&trace=1"
    assert headers.items() <= seen["headers"].items()


@pytest.mark.parametrize(
    ("provider", "fields"),
    [
        ("openrouter", {"models": ["openai/o1-pro"]}),
        ("openrouter", {"plugins": [{"id": "web"}]}),
        ("openrouter", {"tools": [{"type": "openrouter:web_search"}]}),
        ("openai", {"web_search_options": {"search_context_size": "high"}}),
        ("grok", {"search_parameters": {"mode": "on"}}),
        ("openai", {"web_search_options": {}}),
        ("groq", {"tools": [{"type": "browser_search"}]}),
        ("alibaba", {"enable_search": True}),
        ("alibaba", {"enable_code_interpreter": True}),
        ("vercel-ai-gateway", {"providerOptions": {"gateway": {"models": ["openai/o1-pro"]}}}),
    ],
)
def test_unmetered_requests_are_refused_on_the_operators_key(
    farebox: Farebox, customer: Customer, provider: str, fields: dict[str, Any]
) -> None:
    set_price(farebox, provider, "demo-1")
    before = requests(farebox)
    assert code(call(customer, f"{provider}/chat/completions", CHAT | fields, ours(customer))) == (400, 2903)
    assert requests(farebox) == before
    response = call(customer, f"{provider}/chat/completions", CHAT | fields, ours(customer) | bearer(OWN_KEY))
    assert response.status_code == 200, response.text
    assert customer.balance.posted == FIVE


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("openai/responses", {"model": "demo-1", "input": "Hi", "tools": [{"type": "web_search"}]}),
        ("openai/responses", {"model": "demo-1", "input": "Hi", "tools": [{"type": "file_search"}]}),
        ("openrouter/responses", {"model": "demo-1", "input": "Hi", "plugins": [{"id": "web"}]}),
        ("openrouter/responses", {"model": "demo-1", "input": "Hi", "models": ["expensive"]}),
        ("grok/responses", {"model": "demo-1", "input": "Hi", "tools": [{"type": "x_search"}]}),
        ("vercel-ai-gateway/embeddings", {"model": "demo-1", "input": "Hi", "providerOptions": {"gateway": {}}}),
        (
            "anthropic/v1/messages",
            {"model": "demo-1", "max_tokens": 9, "tools": [{"type": "web_search_20250305", "name": "web_search"}]}
            | {"messages": CHAT["messages"]},
        ),
        (
            "google-ai-studio/v1beta/models/demo-1:generateContent",
            {"contents": [{"parts": [{"text": "Hi"}]}], "tools": [{"google_search": {}}]},
        ),
        (
            "google-ai-studio/v1beta/models/demo-1:generateContent",
            {"contents": [{"parts": [{"text": "Hi"}]}], "tools": [{"googleMaps": {}}]},
        ),
    ],
)
def test_searches_that_the_models_price_does_not_cover_are_not_bought_on_the_operators_key(
    farebox: Farebox, customer: Customer, path: str, body: dict[str, Any]
) -> None:
    set_price(farebox, path.split("/")[0], "demo-1")
    before = requests(farebox)
    response = call(customer, path, body, ours(customer))
    assert response.status_code == 400, response.text
    assert "perator's key" in response.text
    assert requests(farebox) == before
    assert customer.balance == Balance(FIVE, 0)


def test_a_model_without_a_price_is_refused_before_the_call(farebox: Farebox, customer: Customer) -> None:
    before = requests(farebox)
    for path, model in (
        ("openai/chat/completions", "model-of-tomorrow"),
        ("compat/chat/completions", "openai/model-of-tomorrow"),
        ("demo/chat/completions", "demo-2"),
    ):
        response = call(customer, path, CHAT | {"model": model}, ours(customer))
        assert code(response) == (400, 2904)
        assert "farebox price set" in response.json()["message"]
        row = log_row(customer, response.headers["cf-aig-log-id"])
        assert (row["status_code"], row["cost"], row["farebox"]["outcome"]) == (400, 0, "refused")
    assert requests(farebox) == before
    assert customer.balance.posted == FIVE

    set_price(farebox, "openai", "model-of-tomorrow")
    response = call(customer, "openai/chat/completions", CHAT | {"model": "model-of-tomorrow"}, ours(customer))
    usage = response.json()["usage"]
    assert FIVE - customer.balance.posted == price_of(usage["prompt_tokens"], usage["completion_tokens"])


@pytest.mark.parametrize(
    ("model", "kind"), [("gpt-4o-mini", 2901), ("nobody/gpt-4o-mini", 2902), ("", 2901), ("/", 2901)]
)
def test_a_model_that_names_no_provider_is_refused_on_compat(customer: Customer, model: str, kind: int) -> None:
    response = call(customer, "compat/chat/completions", CHAT | {"model": model}, ours(customer))
    assert code(response) == (400, kind)


def test_unknown_providers_and_paths(customer: Customer) -> None:
    assert code(call(customer, "nobody/chat/completions", CHAT, ours(customer))) == (400, 2902)
    assert code(call(customer, "compat/images/generations", CHAT, ours(customer))) == (404, 7003)


# --- tokens and gateways ----------------------------------------------------------------------------------------------


def test_a_missing_token_is_called_missing_and_others_get_the_same_error(farebox: Farebox, customer: Customer) -> None:
    other = farebox.funded("5")
    before = requests(farebox)
    at = farebox.services.clock.now_ms()
    reader = farebox.create_token(customer.account_id, Permission.READ, Permission.WRITE, Permission.BILLING_WRITE)
    expired = farebox.create_token(customer.account_id, Permission.RUN, expires_at=at - 1)
    messages = set()
    for token in (other.token, reader, expired, f"{TOKEN_PREFIX}{'x' * 43}", "not-a-token"):
        response = call(customer, "demo/chat/completions", CHAT, {"cf-aig-authorization": f"Bearer {token}".strip()})
        assert code(response) == (401, 2009), token
        messages.add(response.json()["message"])
    assert len(messages) == 1, "stating the reason would help an attacker to guess"
    assert "create one on the Tokens page or with `farebox token create`" in messages.pop()
    for headers in ({}, {"cf-aig-authorization": "Bearer"}, bearer(OWN_KEY)):
        for account in (customer, Customer(farebox, "nobody", "")):
            response = call(account, "demo/chat/completions", CHAT, headers)
            assert code(response) == (401, 2009)
            assert "has no access token" in response.json()["message"]
            assert "as `cf-aig-authorization: Bearer <token>` or as the SDK's API key" in response.json()["message"]
    assert requests(farebox) == before
    runner = farebox.create_token(customer.account_id, Permission.RUN)
    assert call(customer, "demo/chat/completions", CHAT, bearer(runner)).status_code == 200


def test_an_own_key_without_a_token_is_refused(farebox: Farebox, customer: Customer) -> None:
    before = requests(farebox)
    assert code(call(customer, "openai/chat/completions", CHAT, bearer(OWN_KEY))) == (401, 2009)
    assert requests(farebox) == before


def test_a_revoked_token_stops_working_within_a_second(farebox: Farebox, customer: Customer) -> None:
    services = farebox.services
    assert call(customer, "demo/chat/completions", CHAT, bearer(customer.token)).status_code == 200
    [token] = farebox.run(services.database.scan(lambda connection: list_tokens(connection, customer.account_id)))
    at = services.clock.now_ms()
    # As on the command line: only the database is changed.
    assert farebox.run(services.database.write(lambda connection: revoke_token(connection, token.token_id, at)))
    revoked = time.monotonic()
    called = revoked
    while call(customer, "demo/chat/completions", CHAT, bearer(customer.token)).status_code == 200:
        assert called - revoked < 1, "it still works"
        time.sleep(0.05)
        called = time.monotonic()
    assert code(call(customer, "demo/chat/completions", CHAT, bearer(customer.token))) == (401, 2009)


def test_a_change_applies_to_the_next_request_of_a_connection(farebox: Farebox, customer: Customer) -> None:
    """Changes of the operator's key and of the gateway apply although the connection has repeated its head."""
    path = f"{customer.gateway_url}/openai/chat/completions"
    body = CHAT | {"model": "gpt-4o-mini"}
    with httpx.Client(headers=customer.headers) as client:
        for tokens in (5, 17, 5):
            assert client.post(path, json=body | {"max_tokens": tokens}).status_code == 200
        assert last_seen(farebox)["headers"]["authorization"] == f"Bearer {OPERATOR_KEY}"
        set_provider(farebox, "openai", api_key="sk-another-operator-key")
        try:
            assert client.post(path, json=body).status_code == 200
            assert last_seen(farebox)["headers"]["authorization"] == "Bearer sk-another-operator-key"
        finally:
            set_provider(farebox, "openai")
        before = requests(farebox)
        set_gateway(customer, byok_only=True)
        assert client.post(path, json=body).status_code == 400
        assert requests(farebox) == before
        set_gateway(customer)
        assert client.post(path, json=body).status_code == 200
        assert last_seen(farebox)["headers"]["authorization"] == f"Bearer {OPERATOR_KEY}"


def test_a_token_expires_on_an_open_connection_too(farebox: Farebox, customer: Customer) -> None:
    clock = farebox.services.clock
    end = clock.now_ms() + 3_000
    token = farebox.create_token(customer.account_id, Permission.RUN, expires_at=end)
    with httpx.Client(headers=bearer(token)) as client:
        requested = clock.now_ms()
        while client.post(f"{customer.gateway_url}/demo/chat/completions", json=CHAT).status_code == 200:
            assert requested < end, "it still works"
            time.sleep(0.05)
            requested = clock.now_ms()
        assert clock.now_ms() >= end
        assert code(client.post(f"{customer.gateway_url}/demo/chat/completions", json=CHAT)) == (401, 2009)


def test_a_gateway_that_does_not_exist(farebox: Farebox, customer: Customer) -> None:
    before = requests(farebox)
    response = call(customer, "demo/chat/completions", CHAT, ours(customer), gateway="nowhere")
    assert code(response) == (400, 2001)
    assert requests(farebox) == before
    rest = httpx.post(
        f"{customer.api_url}/ai/v1/chat/completions",
        json=CHAT | {"model": "demo/demo-1"},
        headers=customer.headers | {"cf-aig-gateway-id": "nowhere"},
    )
    assert code(rest) == (400, 2001)


def test_the_default_gateway_is_created_at_its_first_call(farebox: Farebox, customer: Customer) -> None:
    def exists() -> bool:
        scan = farebox.services.database.scan
        found = farebox.run(scan(lambda connection: find_gateway(connection, customer.account_id, "default")))
        return found is not None

    assert not exists()
    assert call(customer, "demo/chat/completions", CHAT).status_code == 401
    assert not exists(), "not for a caller without permission"
    with httpx.Client() as client:
        rest = client.post(
            f"{customer.api_url}/ai/v1/chat/completions", json=CHAT | {"model": "demo/demo-1"}, headers=customer.headers
        )
    assert rest.status_code == 200
    assert exists()


def test_a_rest_call_goes_through_the_gateway_it_names(customer: Customer) -> None:
    set_gateway(customer, "named")
    response = httpx.post(
        f"{customer.api_url}/ai/v1/chat/completions",
        json=CHAT | {"model": "demo/demo-1"},
        headers=customer.headers | {"cf-aig-gateway-id": "named"},
    )
    assert response.status_code == 200
    assert [row["id"] for row in log_rows(customer, "named")] == [response.headers["cf-aig-log-id"]]
    assert customer.receipt(response.headers["cf-aig-log-id"])["gateway_id"] == "named"


def test_on_the_rest_paths_every_key_is_a_token(farebox: Farebox, customer: Customer) -> None:
    before = requests(farebox)
    response = httpx.post(
        f"{customer.api_url}/ai/v1/chat/completions", json=CHAT | {"model": "demo/demo-1"}, headers=bearer(OWN_KEY)
    )
    assert code(response) == (401, 2009)
    assert requests(farebox) == before


def test_an_open_gateway_serves_only_own_keys_without_a_token(farebox: Farebox, customer: Customer) -> None:
    set_gateway(customer, "open", authentication=False)
    own = call(customer, "openai/chat/completions", CHAT | {"model": "gpt-4o-mini"}, bearer(OWN_KEY), gateway="open")
    assert own.status_code == 200
    row = log_row(customer, own.headers["cf-aig-log-id"], "open")
    assert row["authentication"] is False
    assert row["farebox"]["outcome"] == "own_key"
    before = requests(farebox)
    assert code(call(customer, "demo/chat/completions", CHAT, gateway="open")) == (401, 2009)
    assert requests(farebox) == before
    paid = call(customer, "demo/chat/completions", CHAT, ours(customer), gateway="open")
    assert paid.status_code == 200
    assert "farebox-charge-usd" in paid.headers


def test_the_books_balance(farebox: Farebox) -> None:
    assert differences(farebox) == []
