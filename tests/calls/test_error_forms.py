"""Errors in the form that the caller's SDK understands, with the facts that a program needs to act on them: through the
real SDKs where available, and byte by byte otherwise."""

import json
import re
import socketserver
import threading
from collections.abc import Iterator
from typing import Any, get_args

import httpx
import pytest

from farebox.errors import LIMIT_TOO_LOW, RATE_LIMITED, SPEND_LIMITED, Problem, Shortage
from farebox.http.call_target import target_of
from farebox.http.provider_errors import Form, error_body, error_headers, error_status
from farebox.http.refusals import Pages
from farebox.storage.sql import DatabaseUnavailable
from tests.calls.kit import log_rows, set_gateway, set_price, set_provider
from tests.engines import ON_BOTH_ENGINES
from tests.support import Customer, Farebox
from tests.waiting import start_of_window

pytestmark = ON_BOTH_ENGINES

NOWHERE = Pages("", "a")
"""An installation without a public URL."""
MESSAGES = [{"role": "user", "content": "Hello"}]
CHAT = {"model": "demo-1", "messages": MESSAGES, "max_tokens": 100}


def post(customer: Customer, path: str, body: Any, **headers: str) -> httpx.Response:
    url = f"{customer.gateway_url}/{path}".rstrip("/")
    return httpx.post(url, json=body, headers=customer.headers | headers)


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("openai/threads/thread_1/messages", "openai"),
        ("compat/models/openrouter/x:free", "openai"),
        ("anthropic/v1/messages", "anthropic"),
        ("openrouter/v1/messages", "anthropic"),
        ("google-vertex-ai/v1/projects/p/locations/l/publishers/google/models/m:generateContent", "google"),
        ("demo/v1beta/models/m:batchEmbedContents", "google"),
        ("google-vertex-ai/v1/projects/p/locations/l/publishers/google/models/m:predictLongRunning", "google"),
    ],
)
def test_the_path_says_whose_sdk_is_calling(path: str, form: Form) -> None:
    target = target_of(f"/v1/a/default/{path}", {})
    assert target is not None
    assert target.form == form


def test_an_empty_account_is_explained_to_programs_in_every_form(farebox: Farebox) -> None:
    poor = farebox.funded("0.000000001")
    google = {"contents": [{"parts": [{"text": "Hello"}]}]}
    step = {"provider": "demo", "endpoint": "v1/chat/completions", "query": CHAT}
    bodies = {
        "demo/v1/chat/completions": CHAT,
        "compat/chat/completions": CHAT | {"model": "demo/demo-1"},
        "demo/v1/responses": {"model": "demo-1", "input": "Hello"},
        "demo/v1/messages": CHAT,
        "demo/v1beta/models/demo-1:generateContent": google,
        "": [step],
    }
    for path, body in bodies.items():
        response = post(poor, path, body)
        found = response.json()
        assert (response.status_code, response.headers["x-should-retry"]) == (402, "false"), path
        assert found["errors"] == [{"code": 2021, "message": found["message"]}], path
        assert (found["source"], found["available_usd"], found["internalCode"]) == ("account", 1e-9, 2021), path
        assert found["needed_usd"] > found["available_usd"], path
        assert found["remedy"] == "Add credit to the account, or send your own provider key."
        error = found["error"]
        if not path:
            assert (error["message"], error["type"], error["code"]) == (found["message"], "insufficient_quota", 2021)
            assert (found["type"], error["status"]) == ("error", "FAILED_PRECONDITION"), (
                "the SDK of any step can read it"
            )
        elif path.endswith("messages"):
            assert (found["type"], error["type"], error["message"]) == ("error", "billing_error", found["message"])
        elif path.endswith("Content"):
            assert (error["code"], error["status"], error["message"]) == (402, "FAILED_PRECONDITION", found["message"])
            info = error["details"][0]
            assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
            assert (info["reason"], info["metadata"]["source"]) == ("NO_CREDIT", "account")
            assert all(isinstance(value, str) for value in info["metadata"].values())
            assert info["metadata"]["available_usd"] == "0.000000001", "not in scientific notation"
        else:
            assert (error["type"], error["code"], error["param"]) == ("insufficient_quota", "insufficient_quota", None)
            assert (error["message"], error["needed_usd"]) == (found["message"], found["needed_usd"])


def test_cloudflares_provider_for_vercels_sdk_finds_the_two_errors_that_it_looks_for(farebox: Farebox) -> None:
    customer = farebox.funded("5")
    step = {"provider": "demo", "endpoint": "v1/chat/completions", "query": CHAT}
    for url, headers, status, code in (
        (customer.gateway_url, {"authorization": "Bearer fbx_none"}, 401, 2009),
        (customer.gateway_url.replace("/default", "/nowhere"), customer.headers, 400, 2001),
    ):
        refused = httpx.post(url, json=[step], headers=headers)
        assert (refused.status_code, refused.json()["success"]) == (status, False)
        assert refused.json()["error"][0]["code"] == code


def test_the_sdks_show_our_words_and_fill_their_fields(farebox: Farebox) -> None:
    import anthropic
    import openai
    from google import genai
    from google.genai import errors, types

    poor = farebox.funded("0.000000001")
    url = f"{poor.gateway_url}/demo/v1"
    with openai.OpenAI(base_url=url, api_key=poor.token) as client, pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(model="demo-1", messages=MESSAGES)  # type: ignore[arg-type]
    assert (refused.value.code, refused.value.type) == ("insufficient_quota", "insufficient_quota")
    assert "Insufficient credits" in str(refused.value)
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["source"] == "account"

    with (
        anthropic.Anthropic(base_url=f"{poor.gateway_url}/demo", api_key=poor.token) as claude,
        pytest.raises(anthropic.APIStatusError, match="Insufficient credits") as denied,
    ):
        claude.messages.create(model="demo-1", max_tokens=9, messages=MESSAGES)  # type: ignore[arg-type]
    assert isinstance(denied.value.body, dict)
    assert denied.value.body["needed_usd"] > denied.value.body["available_usd"]

    options = types.HttpOptions(base_url=f"{poor.gateway_url}/demo", headers=poor.headers)
    with genai.Client(api_key=poor.token, http_options=options) as gemini, pytest.raises(errors.APIError) as raised:
        gemini.models.generate_content(model="demo-1", contents="Hello")
    assert (raised.value.code, raised.value.status) == (402, "FAILED_PRECONDITION")
    assert "Insufficient credits" in str(raised.value)


# --- limits -----------------------------------------------------------------------------------------------------------


def test_the_client_is_not_told_to_wait_too_long() -> None:
    for wait, hopeless in ((30, False), (60, False), (61, True), (86_400, True)):
        shortage = Shortage(2 * 10**9, 10**9)
        problem = Problem(SPEND_LIMITED, "No.", retry_after=wait, resets_at=86_399_001, shortage=shortage)
        for form in ("openai", "anthropic", "google", "universal"):
            headers = dict(error_headers(problem, form, error_status(problem, form, "402")))
            assert (headers.get("x-should-retry") == "false") == hopeless, (form, wait)
            assert headers["retry-after"] == str(wait)
        assert error_status(problem, "openai", "402", waits=True) == (403 if hopeless else 429)
        body = error_body(problem, "google", 429, "r", NOWHERE)
        assert body == error_body(problem, "gemini-cli", 429, "r", NOWHERE)
        details = json.loads(body)["error"]["details"]
        kinds = [detail["@type"].rpartition(".")[2] for detail in details]
        assert kinds == ["ErrorInfo", *["QuotaFailure"] * hopeless, "RetryInfo"]
        if hopeless:
            assert "PerDay" in details[1]["violations"][0]["quotaId"], "gemini-cli ends at once"
        assert details[-1]["retryDelay"] == f"{wait}s"
    found = json.loads(error_body(problem, "openai", 429, "r", NOWHERE))
    assert (found["source"], found["needed_usd"], found["available_usd"]) == ("limit", 2.0, 1.0)
    assert found["resets_at"] == "1970-01-02T00:00:00Z", "never earlier"
    assert "remedy_url" not in found
    assert "retry_after" not in json.loads(error_body(Problem(RATE_LIMITED, "No."), "openai", 429, "r", NOWHERE))


def test_a_limit_that_never_has_room_is_not_waited_for() -> None:
    problem = Problem(LIMIT_TOO_LOW, "No.", shortage=Shortage(2 * 10**9, 10**9))
    for form in get_args(Form):
        for waits in (False, True):
            status = error_status(problem, form, "auto", waits=waits)
            headers = dict(error_headers(problem, form, status, waits=waits))
            assert status == (429 if form == "codex" else 402), form
            assert (headers["x-should-retry"], headers.get("retry-after")) == ("false", None)


def test_agents_that_would_wait_in_silence_for_an_hour_get_403(farebox: Farebox) -> None:
    limited = farebox.funded("5")
    set_gateway(
        limited, "default", rate_limiting_limit=1, rate_limiting_interval=3600, rate_limiting_technique="sliding"
    )
    start_of_window(3600)
    assert post(limited, "demo/v1/chat/completions", CHAT).status_code == 200
    refused = post(limited, "demo/v1/chat/completions", CHAT)
    wait = int(refused.headers["retry-after"])
    words = f"the gateway takes 1 calls in 3600 seconds; the next one in {wait} seconds"
    assert refused.json()["message"] == f"Rate limited: {words}. Nothing was charged."
    for said in (
        {"user-agent": "opencode/1.18.33 ai-sdk/provider-utils/4.0.46"},
        {"user-agent": "QwenCode/0.24.4 (linux; x64)"},
        {"farebox-limit-status": "403"},
    ):
        for path in ("demo/v1/chat/completions", "demo/v1/messages"):
            ended = post(limited, path, CHAT, **said)
            found = ended.json()
            assert (ended.status_code, found["httpCode"], found["internalCode"]) == (403, 403, 2003), path
            assert "retry-after" not in ended.headers, "opencode obeys the header whatever the status"
            assert found["message"].startswith("Limit reached: ")
            assert not re.search("rate.limit", ended.text, re.IGNORECASE), (
                "opencode and pi repeat a call if the text says so"
            )


@pytest.mark.parametrize(
    "path",
    [
        "cohere/v2/chat",
        "deepgram/v1/speak?model=aura-2-thalia-en",
        "elevenlabs/v1/text-to-speech/voice",
        "fal/fal-ai/flux/dev",
        "replicate/models/acme/model/predictions",
    ],
)
def test_providers_whose_sdks_repeat_every_429_get_403_for_a_long_limit(farebox: Farebox, path: str) -> None:
    limited = farebox.funded("5")
    limit = {"rate_limiting_limit": 1, "rate_limiting_technique": "sliding"}
    body = {"text": "Hello", "model": "m", "messages": MESSAGES, "input": {}}
    set_gateway(limited, "default", **limit, rate_limiting_interval=3600)
    start_of_window(3600)
    assert post(limited, "demo/v1/chat/completions", CHAT).status_code == 200
    refused = post(limited, path, body)
    assert (refused.status_code, refused.json()["internalCode"]) == (403, 2003)
    assert refused.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.headers
    set_gateway(limited, "default", **limit, rate_limiting_interval=50)
    start_of_window(50)
    post(limited, "demo/v1/chat/completions", CHAT)
    refused = post(limited, path, body)
    assert refused.status_code == 429, "a wait of less than a minute is acceptable"
    assert int(refused.headers["retry-after"]) <= 50


def test_hugging_face_sdk_for_typescript_gets_a_text_and_no_503(
    farebox: Farebox, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = "@huggingface/inference/4.13.30 Node.js/20"
    poor = farebox.funded("0.000000001")
    refused = post(poor, "demo/v1/chat/completions", CHAT, **{"user-agent": agent})
    assert refused.status_code == 402
    assert refused.json()["error"] == refused.json()["message"], "it shows anything else as [object Object]"

    def away() -> None:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(farebox.services.database, "check", away)
    refused = post(customer, "demo/v1/chat/completions", CHAT, **{"user-agent": agent})
    assert refused.status_code == 502, "it would repeat a 503 without a pause"
    assert refused.json()["error"] == refused.json()["message"]
    assert post(customer, "demo/v1/chat/completions", CHAT).status_code == 503


def test_every_form_has_the_facts_beside_its_error() -> None:
    shortage = Shortage(2 * 10**9, 10**9)
    problem = Problem(SPEND_LIMITED, "No.", retry_after=30, resets_at=30_000, shortage=shortage)
    pages = Pages("https://ai.example.com", "a")
    for form in get_args(Form):
        found = json.loads(error_body(problem, form, error_status(problem, form, "402"), "r", pages))
        facts = {name: found[name] for name in ("source", "retry_after", "resets_at", "needed_usd", "available_usd")}
        assert facts == {
            "source": "limit", "retry_after": 30, "resets_at": "1970-01-01T00:00:30Z", "needed_usd": 2.0,
            "available_usd": 1.0,
        }, form  # fmt: skip
        assert found["remedy_url"] == "https://ai.example.com/billing?account=a"
        assert found["errors"] == [{"code": 2045, "message": "No."}]
        assert found["detail"] == "No.", "Voyage's SDK shows this field, and waits for the limit only if it is present"


# --- streams that break off -------------------------------------------------------------------------------------------


class Broken(socketserver.StreamRequestHandler):
    """Sends the events that the test has set on the server, then disconnects within the response or ends it."""

    def handle(self) -> None:
        length = 0
        while (line := self.rfile.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        self.rfile.read(length)
        events: bytes = self.server.events  # type: ignore[attr-defined]
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        end: bytes = self.server.end  # type: ignore[attr-defined]
        self.wfile.write(head + b"%x\r\n%s\r\n" % (len(events), events) + end)


@pytest.fixture
def provider(farebox: Farebox) -> Iterator[Any]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Broken) as server:
        server.end = b""  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        for slug in ("openai", "anthropic", "google-ai-studio", "cohere", "workers-ai"):
            set_provider(farebox, slug, base_url=f"http://127.0.0.1:{server.server_address[1]}")
            set_price(farebox, slug, "@cf/acme/m" if slug == "workers-ai" else "m")
        yield server
        server.shutdown()
        thread.join()


def events_of(text: str) -> list[Any]:
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


def read(customer: Customer, path: str, body: Any, **headers: str) -> tuple[str, bool]:
    """The part of a stream that arrived, and whether its connection ended cleanly."""
    received = ""
    url = f"{customer.gateway_url}/{path}"
    with httpx.stream("POST", url, json=body, headers=customer.headers | headers, timeout=60) as response:
        assert response.status_code == 200, response.read()
        try:
            for text in response.iter_text():
                received += text
        except httpx.RemoteProtocolError:
            return received, False
    return received, True


@pytest.mark.parametrize("end", [b"", b"0\r\n\r\n"], ids=["dies", "ends too early"])
def test_a_stream_that_breaks_off_ends_in_an_error_of_its_own_form(farebox: Farebox, provider: Any, end: bytes) -> None:
    provider.end = end
    customer = farebox.funded("5")
    chat = {"model": "m", "messages": MESSAGES, "max_tokens": 50, "stream": True}
    delta = {
        "type": "response.output_text.delta",
        "sequence_number": 7,
        "delta": "Hel",
        "item_id": "i",
        "output_index": 0,
        "content_index": 0,
    }
    provider.events = b"event: response.output_text.delta\ndata: %s\n\n" % json.dumps(delta).encode()
    text, whole = read(customer, "openai/responses", {"model": "m", "input": "x", "stream": True})
    *_, error, failed = events_of(text)
    assert whole
    assert (error["type"], error["code"], error["error"]["message"]) == ("error", "upstream_invalid", error["message"])
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert (error["sequence_number"], failed["sequence_number"]) == (8, 9), "Vercel's AI SDK requires one"
    assert failed["response"]["error"] == {"code": "server_error", "message": error["message"]}

    provider.events = b'event: content_block_delta\ndata: {"type": "content_block_delta"}\n\n'
    text, whole = read(customer, "anthropic/v1/messages", chat)
    assert whole
    assert text.rstrip().splitlines()[-2] == "event: error"
    assert events_of(text)[-1]["error"]["type"] == "api_error"

    provider.events = b'data: {"choices": [{"index": 0, "delta": {"content": "Hel"}}]}\n\n'
    text, whole = read(customer, "openai/chat/completions", chat)
    assert whole
    assert events_of(text)[-1]["error"]["code"] == "upstream_invalid"

    provider.events = b'data: {"candidates": [{"content": {"parts": [{"text": "Hel"}]}}]}\n\n'
    path = "google-ai-studio/v1beta/models/m:streamGenerateContent?alt=sse"
    asked = {"contents": [{"parts": [{"text": "x"}]}]}
    text, whole = read(customer, path, asked)
    assert whole
    assert events_of(text)[-1]["error"]["status"] == "UNAVAILABLE"
    text, whole = read(customer, path, asked, **{"user-agent": "GeminiCLI-tui/0.61.0/m (linux; x64; terminal)"})
    assert whole
    assert json.loads(text.splitlines()[-1])["error"]["status"] == "UNAVAILABLE", (
        "it does not treat any event as an error"
    )

    provider.events = b'event: content-delta\ndata: {"type": "content-delta", "index": 0}\n\n'
    text, whole = read(customer, "cohere/v2/chat", chat)
    assert not whole, "its SDK does not treat any event as an error"
    assert events_of(text)[-1]["delta"]["finish_reason"] == "ERROR"

    provider.events = b'data: {"response": "Hel"}\n\n'
    text, whole = read(customer, "workers-ai/run/@cf/acme/m", {"messages": MESSAGES, "max_tokens": 50, "stream": True})
    assert not whole
    assert events_of(text)[-1]["error"]["code"] == "upstream_invalid"
    assert customer.balance.held == 0


def test_a_stream_that_ends_too_early_is_a_failure_in_the_log_and_is_charged_as_one_that_breaks_off(
    farebox: Farebox, provider: Any
) -> None:
    provider.end = b"0\r\n\r\n"
    chat = {"model": "m", "messages": MESSAGES, "max_tokens": 50, "stream": True}
    piece = {"choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": None}]}
    half = b"data: " + json.dumps(piece).encode() + b"\n\n"
    claude: tuple[dict[str, Any], ...] = (
        {"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
    )
    gemini = {"candidates": [{"content": {"parts": [{"text": "Hel"}]}}], "usageMetadata": {"promptTokenCount": 9}}
    streams = (
        ("openai/chat/completions", half),
        ("anthropic/v1/messages", b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in claude)),
        (
            "google-ai-studio/v1beta/models/m:streamGenerateContent?alt=sse",
            b"data: %s\n\n" % json.dumps(gemini).encode(),
        ),
    )
    for path, events in streams:
        customer = farebox.funded("5")
        provider.events = events
        body = {"contents": [{"parts": [{"text": "x"}]}]} if "google" in path else chat
        text, _ = read(customer, path, body)
        assert "before its last event" in text
        (row,) = log_rows(customer)
        assert (row["success"], row["status_code"]) == (False, 200), path
        receipt = customer.receipt(row["id"])
        assert "before its last event" in receipt["policy"]
        assert 0 < receipt["charge_nanos"] < 100_000
        assert customer.balance.held == 0
    whole = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}
    for last in (whole, usage):  # some streams end with a finish reason, or with their usage
        customer = farebox.funded("5")
        provider.events = half + b"data: " + json.dumps(last).encode() + b"\n\n"
        text, _ = read(customer, "openai/chat/completions", {**chat, "stream_options": {"include_usage": True}})
        assert "error" not in text
        assert [row["success"] for row in log_rows(customer)] == [True]


def test_openais_sdk_raises_where_a_response_dies(farebox: Farebox, provider: Any) -> None:
    import openai

    customer = farebox.funded("5")
    created = {"type": "response.created", "sequence_number": 0, "response": {"id": "r", "status": "in_progress"}}
    provider.events = b"event: response.created\ndata: %s\n\n" % json.dumps(created).encode()
    client = openai.OpenAI(base_url=f"{customer.gateway_url}/openai", api_key=customer.token)
    with client, pytest.raises(openai.APIError, match="broke off"):
        list(client.responses.create(model="m", input="x", stream=True))
