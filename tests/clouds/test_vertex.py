"""Google Vertex AI, called with google-genai in its Vertex mode and with Anthropic's SDK for it, with a service account
whose tokens come from a scripted server."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from websockets.exceptions import InvalidStatus

from farebox.clock import Clock
from farebox.operator.shared_keys import set_key
from farebox.storage.sql import Connection
from tests.calls.kit import differences, forget, log_rows, set_price, set_provider
from tests.calls.upstream import Sent, Upstream
from tests.clouds.kit import charged, free
from tests.engines import ON_BOTH_ENGINES, TESTER
from tests.long_calls.kit import settled
from tests.sdks import anthropic, genai
from tests.support import Customer, Farebox
from tests.waiting import until
from tests.websockets.kit import SocketProvider, await_close, opened, providing
from tests.websockets.live import MODEL, Live, say, sdk_options, tokens_read, turn_cost

pytestmark = ON_BOTH_ENGINES

EMAIL = "farebox@acme-prod.iam.gserviceaccount.com"
KEY = rsa.generate_private_key(65537, 2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()
USAGE = {"promptTokenCount": 1000, "candidatesTokenCount": 100, "totalTokenCount": 1100}
PART = {"content": {"role": "model", "parts": [{"text": "Good day."}]}, "finishReason": "STOP", "index": 0}
GEMINI = {"candidates": [PART], "usageMetadata": USAGE, "modelVersion": "gemini-2.5-flash"}
GEMINI_NANOS = 1000 * 300 + 100 * 2_500
CLAUDE = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "claude-haiku-4-5-20251001",
    "content": [{"type": "text", "text": "Good day."}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1000, "output_tokens": 100},
}
LONG = "Hello there " * 500
ASK = {"contents": [{"role": "user", "parts": [{"text": LONG}]}], "generationConfig": {"maxOutputTokens": 200}}
PATH = "v1/projects/acme-prod/locations/europe-west4/publishers/google/models/gemini-2.5-flash"


class Google:
    """The upstream and Google's token server in one."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.issued = 0
        self.refusal: dict[str, str] = {}
        self.stale: set[str] = set()
        self.answer: Any = GEMINI
        self.status = 200
        upstream.response = self.respond

    def respond(self, sent: Sent) -> Any:
        self.upstream.status = 200
        if sent.path == "/token":
            return self.token(sent)
        if sent.headers.get("authorization", "").removeprefix("Bearer ") in self.stale:
            self.upstream.status = 401
            return {"error": {"code": 401, "status": "UNAUTHENTICATED", "message": "invalid credentials"}}
        self.upstream.status = self.status
        return self.answer

    def respond_with(self, status: int) -> None:
        """Answer the next calls with this status."""
        self.status = status

    def token(self, sent: Sent) -> Any:
        form = parse_qs(sent.body.decode())
        head, claims, signature = form["assertion"][0].split(".")
        padded = [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in (claims, signature)]
        KEY.public_key().verify(padded[1], f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256())
        said = json.loads(padded[0])
        assert said["iss"] == EMAIL
        assert said["exp"] - said["iat"] == 3600
        if self.refusal:
            self.upstream.status = 400
            return self.refusal
        self.issued += 1
        return {"access_token": f"ya29.token-{self.issued}", "expires_in": 3599, "token_type": "Bearer"}

    @property
    def calls(self) -> list[Sent]:
        return [sent for sent in self.upstream.sent if sent.path != "/token"]


def account(**more: Any) -> str:
    fields = {"type": "service_account", "project_id": "acme-prod", "private_key_id": "key-id-0123456789"}
    fields |= {"private_key": PEM, "client_email": EMAIL, "token_uri": "http://127.0.0.1:1/not-asked"}
    return json.dumps({**fields, **more}, indent=2)


@pytest.fixture
def google(farebox: Farebox, upstream: Upstream) -> Google:
    """A reset server, without a cached token."""
    tokens = farebox.services.tokens
    tokens.google_url = f"{upstream.url}/token"
    tokens._kept.clear()
    return Google(upstream)


@pytest.fixture(scope="module", autouse=True)
def _vertex(farebox: Farebox, upstream: Upstream) -> None:
    _set_up(farebox, upstream)


def _set_up(farebox: Farebox, upstream: Upstream) -> None:
    keys = [json.loads(account()), {"api_key": "express-key-of-the-operator"}]
    set_provider(farebox, "google-vertex-ai", base_url=upstream.url + "/at/{host}", api_key=json.dumps(keys))


@pytest.fixture(scope="module")
def customer(farebox: Farebox) -> Customer:
    return farebox.funded("50")


def post(customer: Customer, path: str, body: Any, **headers: str) -> httpx.Response:
    url = f"{customer.gateway_url}/google-vertex-ai/{path}"
    return httpx.post(url, json=body, headers={**customer.headers, **headers})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("europe-west4", "europe-west4-aiplatform.googleapis.com"),
        ("global", "aiplatform.googleapis.com"),
        ("eu", "aiplatform.eu.rep.googleapis.com"),
    ],
)
def test_google_genai(customer: Customer, google: Google, location: str, host: str, stream: bool) -> None:
    from google.oauth2.credentials import Credentials

    google.answer = b"data: " + json.dumps(GEMINI).encode() + b"\r\n\r\n" if stream else GEMINI
    client = genai.Client(
        vertexai=True,
        project="acme-prod",
        location=location,
        credentials=Credentials(token=customer.token),  # type: ignore[no-untyped-call]
        http_options={"base_url": f"{customer.gateway_url}/google-vertex-ai", "api_version": "v1"},
    )
    asked: dict[str, Any] = {"model": "gemini-2.5-flash", "contents": LONG, "config": {"max_output_tokens": 200}}
    with charged(customer) as cost:
        if stream:
            text = "".join(part.text or "" for part in client.models.generate_content_stream(**asked))
        else:
            text = client.models.generate_content(**asked).text or ""
    client.close()
    assert text == "Good day."
    assert cost.nanos == GEMINI_NANOS
    (sent,) = google.calls
    assert sent.path.startswith(f"/at/{host}/v1/projects/acme-prod/locations/{location}/publishers/google/models/")
    assert sent.headers["authorization"] == "Bearer ya29.token-1"
    assert "x-goog-api-key" not in sent.headers


def test_google_genai_makes_videos(customer: Customer, farebox: Farebox, google: Google) -> None:
    """Veo returns the video in the response: the client's poll relays it, and the worker settles it."""
    from google.oauth2.credentials import Credentials

    def client_of(one: Customer) -> Any:
        return genai.Client(
            vertexai=True,
            project="acme-prod",
            location="us-central1",
            credentials=Credentials(token=one.token),  # type: ignore[no-untyped-call]
            http_options={"base_url": f"{one.gateway_url}/google-vertex-ai", "api_version": "v1"},
        )

    client, other, began = client_of(customer), client_of(farebox.funded("5")), customer.balance.posted
    model = "projects/acme-prod/locations/us-central1/publishers/google/models/veo-3.1-fast-generate-001"
    google.answer = {"name": f"{model}/operations/5f2c1d-0000"}
    asked = {"number_of_videos": 2, "duration_seconds": 4, "generate_audio": True}
    operation = client.models.generate_videos(
        model="veo-3.1-fast-generate-001", source={"prompt": "A harbour"}, config=asked
    )
    assert customer.balance.held == 2 * 4 * 100_000_000
    assert not client.operations.get(operation).done
    made = {"mimeType": "video/mp4", "bytesBase64Encoded": base64.b64encode(bytes(3 * 2**20)).decode()}
    google.answer = {"name": operation.name, "done": True, "response": {"videos": [made, made]}}
    done = client.operations.get(operation)
    assert [len(one.video.video_bytes) for one in done.response.generated_videos] == [3 * 2**20] * 2
    with pytest.raises(genai.errors.ClientError) as unknown:
        other.operations.get(operation)
    assert unknown.value.code == 404
    settled(customer)
    assert (customer.balance.held, began - customer.balance.posted) == (0, 2 * 4 * 100_000_000)
    last = google.calls[-1]
    assert (last.json(), last.path.rpartition("/")[2]) == (
        {"operationName": operation.name},
        "veo-3.1-fast-generate-001:fetchPredictOperation",
    )
    assert last.headers["authorization"] == "Bearer ya29.token-1"
    client.close()
    other.close()
    wrong = {"operationName": operation.name.replace("fast-", "")}
    refused = post(customer, f"v1/{model}:fetchPredictOperation", wrong)
    assert (refused.status_code, "operationName" in refused.text) == (400, True)
    assert differences(farebox) == []


@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_on_vertex(customer: Customer, google: Google, stream: bool) -> None:
    start = {**CLAUDE, "content": [], "usage": {"input_tokens": 1000, "output_tokens": 1}}
    events: list[Any] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Good day."}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 100}},
        {"type": "message_stop"},
    ]
    framed = b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events)
    google.answer = framed if stream else CLAUDE
    client = anthropic.AnthropicVertex(
        base_url=f"{customer.gateway_url}/google-vertex-ai/v1",
        project_id="acme-prod",
        region="global",
        access_token=customer.token,
        max_retries=0,
    )
    asked: dict[str, Any] = {"model": "claude-haiku-4-5@20251001", "max_tokens": 200}
    asked |= {"messages": [{"role": "user", "content": LONG}]}
    with client, charged(customer) as cost:
        if stream:
            with client.messages.stream(**asked) as found:
                assert found.get_final_text() == "Good day."
        else:
            assert client.messages.create(**asked).content[0].text == "Good day."
    assert cost.nanos == 1000 * 1_000 + 100 * 5_000
    (sent,) = google.calls
    method = "streamRawPredict" if stream else "rawPredict"
    assert sent.path.endswith(f"/publishers/anthropic/models/claude-haiku-4-5@20251001:{method}")
    assert "model" not in sent.json()


def test_embeddings(customer: Customer, google: Google) -> None:
    google.answer = {
        "predictions": [{"embeddings": {"values": [0.5], "statistics": {"token_count": n}}} for n in (600, 400)]
    }
    path = PATH.replace("gemini-2.5-flash", "gemini-embedding-001") + ":predict"
    with charged(customer) as cost:
        response = post(customer, path, {"instances": [{"content": LONG}, {"content": LONG}]})
    assert response.status_code == 200, response.text
    assert cost.nanos == 1000 * 150


def test_express_mode(customer: Customer, google: Google) -> None:
    with charged(customer) as cost:
        response = post(customer, "v1/publishers/google/models/gemini-2.5-flash:generateContent", ASK)
    assert response.status_code == 200, response.text
    assert cost.nanos == GEMINI_NANOS
    (sent,) = google.calls
    assert sent.path == "/at/aiplatform.googleapis.com/v1/publishers/google/models/gemini-2.5-flash:generateContent"
    assert sent.headers["x-goog-api-key"] == "express-key-of-the-operator"
    assert not google.issued


def test_a_token_is_cached_and_renewed_before_it_expires(
    farebox: Farebox, customer: Customer, google: Google, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        with charged(customer):
            assert post(customer, f"{PATH}:generateContent", ASK).status_code == 200
    assert google.issued == 1
    clock, later = farebox.services.tokens._clock, 51 * 60_000
    monkeypatch.setattr(farebox.services.tokens, "_clock", _Later(clock, later))
    with charged(customer):
        assert post(customer, f"{PATH}:generateContent", ASK).status_code == 200
    assert google.calls[-1].headers["authorization"] == "Bearer ya29.token-1", (
        "it is still valid, so nobody waits for the renewal"
    )
    until(lambda: google.issued == 2, "the renewal")
    monkeypatch.setattr(farebox.services.tokens, "_clock", _Later(clock, later + 10 * 60_000))
    with charged(customer):
        assert post(customer, f"{PATH}:generateContent", ASK).status_code == 200
    assert google.issued == 2
    assert google.calls[-1].headers["authorization"] == "Bearer ya29.token-2"


class _Later:
    def __init__(self, clock: Clock, more: int) -> None:
        self._clock = clock
        self._more = more

    def now_ms(self) -> int:
        return self._clock.now_ms() + self._more


def test_a_token_that_is_no_longer_accepted_is_replaced_once(customer: Customer, google: Google) -> None:
    google.stale = {"ya29.token-1"}
    with charged(customer) as cost:
        assert post(customer, f"{PATH}:generateContent", ASK).status_code == 200
    assert cost.nanos == GEMINI_NANOS
    google.stale = {f"ya29.token-{number}" for number in range(10)}
    with free(customer):
        response = post(customer, f"{PATH}:generateContent", ASK)
    assert response.status_code == 503, "the operator's trouble"
    assert google.issued == 3


def test_a_wrong_clock_is_reported_by_google(customer: Customer, google: Google) -> None:
    words = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
    google.refusal = {"error": "invalid_grant", "error_description": words}
    with free(customer):
        response = post(customer, f"{PATH}:generateContent", ASK)
    assert response.status_code == 503
    assert "Nothing was charged" in response.json()["error"]["message"]
    assert not google.calls


def test_an_unreachable_token_server(farebox: Farebox, customer: Customer, google: Google) -> None:
    farebox.services.tokens.google_url = "http://127.0.0.1:1/token"
    with free(customer):
        response = post(customer, f"{PATH}:generateContent", ASK)
    assert response.status_code == 502
    assert "could not be reached" in response.json()["error"]["message"]
    assert not google.calls


@pytest.mark.parametrize(
    "path",
    [
        PATH.replace("acme-prod", "someone-else"),
        PATH.replace("europe-west4", "evil.example%2f"),
        PATH.replace("europe-west4", "evil.example"),
        PATH.replace("europe-west4", "EVIL"),
        "v1/models/gemini-2.5-flash",
    ],
)
def test_a_location_that_the_key_does_not_allow(customer: Customer, google: Google, path: str) -> None:
    with free(customer):
        response = post(customer, f"{path}:generateContent", ASK)
    assert response.status_code in (400, 403, 424), response.text
    assert not google.upstream.sent


def test_a_region_that_does_not_exist(farebox: Farebox, customer: Customer, google: Google) -> None:
    """The name has the form of a region, but its host name does not resolve, for calls or for sessions."""
    set_provider(farebox, "google-vertex-ai", base_url="https://{host}.invalid", api_key=account())
    nowhere = "v1/projects/acme-prod/locations/nowhere-west9"
    try:
        with free(customer):
            response = post(customer, f"{nowhere}/publishers/google/models/gemini-2.5-flash:generateContent", ASK)
            assert response.status_code == 502
            assert "could not be reached (dns)" in response.json()["error"]["message"]
        with free(customer), pytest.raises(InvalidStatus) as refused:
            opened(customer, f"google-vertex-ai/{nowhere}/{LIVE_SOCKET}")
        assert refused.value.response.status_code == 502
        assert b"could not be reached (dns)" in bytes(refused.value.response.body)
    finally:
        _set_up(farebox, google.upstream)


def test_an_account_stores_its_own_service_account(farebox: Farebox, google: Google) -> None:
    customer = farebox.funded("1")
    url = f"{customer.api_url}/ai-gateway/gateways/default/provider_configs"
    fields = {"alias": "default", "default_config": True, "provider_slug": "google-vertex-ai"}
    executable = {"type": "external_account", "credential_source": {"executable": {"command": "/bin/true"}}}
    refused = httpx.post(url, json={**fields, "secret": json.dumps(executable)}, headers=customer.headers)
    assert refused.status_code == 400, "credentials that run a program or name another URL are refused"
    mine = account(project_id="mine-123456")
    stored = httpx.post(url, json={**fields, "secret": mine}, headers=customer.headers)
    assert stored.status_code == 200, stored.text
    path = PATH.replace("acme-prod", "mine-123456")
    with free(customer):
        assert post(customer, f"{path}:generateContent", ASK).status_code == 200
    google.upstream.sent.clear()
    google.refusal = {"error": "invalid_grant", "error_description": "Invalid grant: account not found"}
    farebox.services.tokens._kept.clear()
    with free(customer):
        response = post(customer, f"{path}:generateContent", ASK)
    assert "invalid_grant: Invalid grant: account not found" in response.text
    assert "PRIVATE KEY" not in response.text


def test_an_application_of_entra(farebox: Farebox, upstream: Upstream) -> None:
    app = {"tenant_id": "tenant.example.com", "client_id": "app-1", "client_secret": "s3cret~of~the~app"}
    key = json.dumps({"resource": "acme", **app})
    set_provider(farebox, "azure-openai", base_url=upstream.url + "/at/{resource}", api_key=key)
    farebox.services.tokens.entra_url = upstream.url
    customer = farebox.funded("1")
    choice = {"index": 0, "message": {"role": "assistant", "content": "Good day."}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}

    def respond(sent: Sent) -> Any:
        if sent.path == "/tenant.example.com/oauth2/v2.0/token":
            form = {name: values[0] for name, values in parse_qs(sent.body.decode()).items()}
            assert (form["client_id"], form["client_secret"]) == ("app-1", "s3cret~of~the~app")
            return {"access_token": "eyJ0.entra", "expires_in": 3599}
        return {"object": "chat.completion", "model": "gpt-4o", "choices": [choice], "usage": usage}

    upstream.response = respond
    with charged(customer) as cost:
        url = f"{customer.gateway_url}/azure-openai/acme/gpt-4o/chat/completions?api-version=1"
        body = {"messages": [{"role": "user", "content": LONG}], "max_tokens": 200}
        assert httpx.post(url, json=body, headers=customer.headers).status_code == 200
    assert cost.nanos == 1000 * 2_500 + 100 * 10_000
    assert upstream.sent[-1].headers["authorization"] == "Bearer eyJ0.entra"
    assert "api-key" not in upstream.sent[-1].headers


def test_an_api_key_of_ibm_cloud(farebox: Farebox, upstream: Upstream) -> None:
    set_provider(farebox, "watsonx", base_url=upstream.url, api_key="ibm-api-key-0123")
    set_price(farebox, "watsonx", "ibm/granite-4-h-small")
    farebox.services.tokens.ibm_url = upstream.url + "/identity/token"
    customer, usage = farebox.funded("1"), {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    choice = {"index": 0, "message": {"role": "assistant", "content": "Good day."}, "finish_reason": "stop"}
    events: list[Any] = [{"choices": [{"index": 0, "delta": {"content": "Good day."}, "finish_reason": "stop"}]}]
    events.append({"choices": [], "usage": usage})
    refusal: dict[str, Any] = {}

    def respond(sent: Sent) -> Any:
        if sent.path == "/identity/token":
            assert parse_qs(sent.body.decode())["apikey"] == ["ibm-api-key-0123"]
            return refusal or {"access_token": "eyJ0.ibm", "expires_in": 3600, "token_type": "Bearer"}
        if "chat_stream" in sent.path:
            return b"".join(b"id: 1\nevent: message\ndata: %b\n\n" % json.dumps(one).encode() for one in events)
        return {"id": "c", "model_id": "ibm/granite-4-h-small", "created": 1, "choices": [choice], "usage": usage}

    upstream.response = respond
    body = {"model_id": "ibm/granite-4-h-small", "project_id": "p", "max_tokens": 200}
    body["messages"] = [{"role": "user", "content": LONG}]
    for path in ("chat", "chat_stream"):
        with charged(customer) as cost:
            url = f"{customer.gateway_url}/watsonx/ml/v1/text/{path}?version=2024-10-08"
            assert "Good day." in httpx.post(url, json=body, headers=customer.headers).text
        assert (cost.nanos, cost.row["model"]) == (1000 * 1_000 + 100 * 2_000, "ibm/granite-4-h-small")
    assert upstream.sent[-1].path == "/ml/v1/text/chat_stream?version=2024-10-08"
    assert upstream.sent[-1].headers["authorization"] == "Bearer eyJ0.ibm"
    assert [sent.path for sent in upstream.sent].count("/identity/token") == 1
    farebox.services.tokens._kept.clear()
    refusal |= {"errorCode": "BXNIM0415E", "errorMessage": "Provided API key could not be found."}
    with free(customer):
        response = httpx.post(url, json=body, headers=customer.headers)
    assert response.status_code == 503
    assert "BXNIM0415E" not in response.text, "only the operator may read its response"


def test_access_tokens_are_never_disclosed(farebox: Farebox, customer: Customer, google: Google) -> None:
    """A provider, or something on the path to it, echoes what it was sent."""
    token = "ya29.token-1"
    google.upstream.headers = {"x-echo": f"Bearer {token}"}
    repeated = GEMINI | {"echo": f"authorization: Bearer {token}"}
    for stream in (False, True):
        google.answer = b"data: " + json.dumps(repeated).encode() + b"\r\n\r\n" if stream else repeated
        method = "streamGenerateContent?alt=sse" if stream else "generateContent"
        with charged(customer) as cost:
            response = post(customer, f"{PATH}:{method}", ASK)
        assert response.status_code == 200, response.text
        assert token in google.calls[-1].headers["authorization"]
        for said in (response.text, str(response.headers), json.dumps(log_body(customer, cost.row["id"]))):
            assert token not in said
        assert "*" * len(token) in response.text
    google.stale = {token}  # then an error that echoes both
    second = "ya29.token-2"
    google.answer = {"error": {"code": 400, "message": f"not with {token} nor {second}"}}
    google.respond_with(400)
    with free(customer):
        refused = post(customer, f"{PATH}:generateContent", ASK)
    assert refused.status_code == 400
    assert "ya29" not in refused.text
    assert google.issued == 2


def log_body(customer: Customer, log_id: str) -> Any:
    url = f"{customer.api_url}/ai-gateway/gateways/default/logs/{log_id}/response"
    return httpx.get(url, headers=customer.headers).text


@pytest.mark.parametrize("operators", [False, True])
def test_a_key_without_a_token_passes_the_call_to_another(
    farebox: Farebox, upstream: Upstream, operators: bool
) -> None:
    """Several keys share the calls, and the token server refuses one of them."""
    apps = [
        json.dumps(
            {
                "resource": "acme",
                "tenant_id": "tenant.example.com",
                "client_id": f"app-{n}",
                "client_secret": f"s3cret~{n}~of~the~app",
            }
        )
        for n in (1, 2)
    ]
    customer = farebox.funded("1")
    farebox.services.tokens.entra_url = upstream.url
    farebox.services.tokens._kept.clear()
    farebox.services.paused_keys.forget_all()
    set_provider(farebox, "azure-openai", base_url=upstream.url + "/at/{resource}", api_key=apps[0])
    if operators:
        write_keys(farebox, apps)
    else:
        url = f"{customer.api_url}/ai-gateway/gateways/default/provider_configs"
        for number, secret in enumerate(apps):
            key = {
                "alias": f"k{number}",
                "default_config": False,
                "provider_slug": "azure-openai",
                "secret": secret,
                "weight": 1000 if not number else 1,
            }
            made = httpx.post(url, json=key, headers=customer.headers)
            assert made.status_code == 200, made.text
    choice = {"index": 0, "message": {"role": "assistant", "content": "Good day."}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}

    def respond(sent: Sent) -> Any:
        upstream.status = 200
        if sent.path.endswith("/oauth2/v2.0/token"):
            if b"app-1" in sent.body:
                upstream.status = 401
                return {"error": "invalid_client", "error_description": "AADSTS7000222: the secret has expired"}
            return {"access_token": "eyJ0.of.the.second", "expires_in": 3599}
        return {"object": "chat.completion", "model": "gpt-4o", "choices": [choice], "usage": usage}

    upstream.response = respond
    url = f"{customer.gateway_url}/azure-openai/acme/gpt-4o/chat/completions?api-version=1"
    body = {"messages": [{"role": "user", "content": LONG}], "max_tokens": 200}
    for _ in range(2):  # the second call uses the other key at once, because the first rests
        response = httpx.post(url, json=body, headers=customer.headers)
        assert response.status_code == 200, response.text
    asked = [sent for sent in upstream.sent if b"app-1" in sent.body]
    assert len(asked) == 1
    receipts = [customer.receipt(row["id"]) for row in log_rows(customer)]
    tried = [receipt.get("attempts") for receipt in receipts]
    assert sum(bool(lines) for lines in tried) == 1
    (lines,) = [lines for lines in tried if lines]
    assert [(line["status"], bool(line["error"]), line["charged"]) for line in lines] == [
        (None, True, False), (200, False, operators),
    ]  # fmt: skip
    assert differences(farebox) == []


def write_keys(farebox: Farebox, secrets: list[str]) -> None:
    """Set the operator's keys; the first is nearly always drawn."""
    vault = farebox.services.vault

    def write(connection: Connection) -> None:
        set_key(connection, vault, by=TESTER, provider="azure-openai", name="default", at=1, weight=1000)
        set_key(
            connection, vault, by=TESTER, provider="azure-openai", name="second", at=1, api_key=secrets[1], weight=1
        )

    farebox.run(farebox.services.database.write(write))
    forget(farebox)


@pytest.fixture
def played(farebox: Farebox, upstream: Upstream, google: Google) -> Iterator[tuple[SocketProvider, Live]]:
    """Vertex AI's Live API; the upstream only serves tokens meanwhile."""
    with providing() as provider:
        set_provider(farebox, "google-vertex-ai", base_url=provider.url + "/at/{host}", api_key=account())
        provider.script = live = Live()
        yield provider, live
    _set_up(farebox, upstream)


LIVE = "google-vertex-ai/v1/projects/acme-prod/locations/europe-west4"
LIVE_SOCKET = "ws/google.cloud.aiplatform.v1.LlmBidiService/BidiGenerateContent"


async def test_live_sessions(customer: Customer, played: tuple[SocketProvider, Live]) -> None:
    from google.oauth2.credentials import Credentials

    provider, live = played
    before = customer.balance.posted
    async with sdk_options(customer, LIVE) as options:
        client = genai.Client(
            vertexai=True,
            project="acme-prod",
            location="europe-west4",
            credentials=Credentials(token=customer.token),  # type: ignore[no-untyped-call]
            http_options=options | {"api_version": "v1"},
        )
        async with client.aio.live.connect(model=MODEL) as connection:
            await connection.send_client_content(turns={"role": "user", "parts": [{"text": "Hello"}]})
            assert await tokens_read(connection) == 565
        await client.aio.aclose()
        client.close()
    until(lambda: customer.balance.held == 0 and len(log_rows(customer)) >= 2)
    assert before - customer.balance.posted == turn_cost()
    assert not differences(customer.farebox)
    path = "/at/europe-west4-aiplatform.googleapis.com/ws/google.cloud.aiplatform.v1.LlmBidiService/BidiGenerateContent"
    assert provider.handshakes[0].path == path
    assert provider.headers["authorization"] == "Bearer ya29.token-1"
    model = f"projects/acme-prod/locations/europe-west4/publishers/google/models/{MODEL}"
    assert live.sent[0]["setup"]["model"] == model


def test_a_live_session_is_of_the_operator_s_project(customer: Customer, played: tuple[SocketProvider, Live]) -> None:
    before, socket = customer.balance.posted, LIVE_SOCKET
    with pytest.raises(InvalidStatus, match="HTTP 400"):
        opened(customer, f"{LIVE.replace('acme-prod', 'another')}/{socket}")
    for place in (
        "projects/acme-prod/locations/us-central1/publishers/google/models",
        "projects/another/locations/europe-west4/publishers/google/models",
        "projects/acme-prod/locations/europe-west4/endpoints",
    ):
        with opened(customer, f"{LIVE}/{socket}") as connection:
            say(connection, setup={"model": f"{place}/{MODEL}"})
            assert await_close(connection)[0] == 4400
    assert played[1].sent == []
    until(lambda: customer.balance.held == 0)
    assert customer.balance.posted == before
