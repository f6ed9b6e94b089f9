"""The operator's key is never disclosed, wherever and however a provider echoes it; responses without it pass
unchanged."""

import base64
import gzip
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from farebox.storage.operator_alarms import resolve_alarms
from tests.calls.kit import set_price, set_provider
from tests.calls.test_operator_key import Provider, alarmed, stored_body
from tests.engines import ON_BOTH_ENGINES
from tests.providers.test_scrubbing import BASIC, FORMS, KEY
from tests.support import Customer, Farebox

pytestmark = ON_BOTH_ENGINES

SLUG, MODEL = "cerebras", "acme-1"
LEAKS = ("0123456789", "tail", *(base64.b64encode(b"." * n + KEY.encode())[8:32].decode() for n in range(3)))
"""Parts of the key; none of them may be visible."""
EVERY_FORM = " ".join(form for name, form in FORMS.items() if name != "as it is")
"""Arbitrary JSON strings."""


@pytest.fixture
def provider(farebox: Farebox) -> Iterator[Provider]:
    made = Provider(farebox)
    set_provider(farebox, SLUG, base_url=made.url, api_key=KEY)
    set_price(farebox, SLUG, MODEL)
    yield made
    farebox.run(made.server.close())


def ask(
    customer: Customer, headers: dict[str, str] | None = None, path: str = "chat/completions", **body: Any
) -> httpx.Response:
    return httpx.post(
        f"{customer.gateway_url}/{SLUG}/{path}",
        json={"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 10, **body},
        headers=customer.headers if headers is None else headers,
        follow_redirects=False,
    )


def seen(customer: Customer, response: httpx.Response) -> str:
    """Everything that a tenant can see of a call, now and later."""
    log_id = response.headers["cf-aig-log-id"]
    logs = f"{customer.api_url}/ai-gateway/gateways/default/logs/{log_id}"
    row = httpx.get(logs, headers=customer.headers).text
    head = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
    return f"{head}\n{response.text}\n{row}\n{stored_body(customer, log_id)}\n{customer.receipt(log_id)}"


def leaks_in(text: str) -> list[str]:
    text = text.replace('"detail"', "")  # the name of a field in errors
    return [leak for leak in LEAKS if leak in text]


def check(customer: Customer, response: httpx.Response) -> None:
    found = seen(customer, response)
    assert leaks_in(found) == []


def good(text: str) -> bytes:
    """A successful response with the text, unchanged, as its content and its model."""
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    choice = {"index": 0, "message": {"role": "assistant", "content": "TEXT"}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "model": "TEXT", "usage": usage}).replace("TEXT", text).encode()


def test_the_key_is_removed_from_the_body_of_a_success(customer: Customer, provider: Provider) -> None:
    body = good(EVERY_FORM)
    provider.status, provider.kind, provider.pieces = 200, "application/json", [body]
    response = ask(customer)
    assert (response.status_code, len(response.content)) == (200, len(body))
    assert response.json()["usage"]["completion_tokens"] == 5
    check(customer, response)
    provider.pieces, provider.encoding = [gzip.compress(body)], "gzip"
    check(customer, ask(customer))


@pytest.mark.parametrize("status", [200, 302, 404, 500])
def test_the_key_is_removed_from_every_header(customer: Customer, provider: Provider, status: int) -> None:
    provider.status, provider.kind, provider.pieces = status, "application/json", [b"{}"]
    provider.headers = [(f"x-said-{number}", f"{said}; {said}") for number, said in enumerate(FORMS.values())]
    provider.headers += [
        ("location", f"https://example.com/?key={KEY}"),
        ("set-cookie", f"k={KEY}"),
        ("www-authenticate", f"Basic {BASIC}"),
    ]
    response = ask(customer)
    assert response.status_code == status
    check(customer, response)


def test_the_key_is_removed_from_an_error(customer: Customer, provider: Provider) -> None:
    provider.status, provider.kind = 404, "text/html"
    provider.pieces = [f"<h1>No {EVERY_FORM}</h1>".encode()]
    response = ask(customer)
    assert response.text.count("[removed]") == len(FORMS) - 1
    check(customer, response)


def test_the_key_is_removed_from_a_stream_of_single_bytes(customer: Customer, provider: Provider) -> None:
    delta = {"index": 0, "delta": {"content": "TEXT"}, "finish_reason": None}
    event = b"data: " + json.dumps({"choices": [delta]}).encode().replace(b"TEXT", EVERY_FORM.encode()) + b"\n\n"
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}}
    whole = event + b"data: " + json.dumps(usage).encode() + b"\n\ndata: [DONE]\n\n"
    provider.status, provider.kind = 200, "text/event-stream"
    provider.pieces = [whole[at : at + 1] for at in range(len(whole))]
    response = ask(customer, stream=True, stream_options={"include_usage": True})
    assert len(response.content) == len(whole)
    assert response.text.count("*") > 20 * (len(FORMS) - 1)
    check(customer, response)


def test_the_key_is_removed_from_a_large_body_with_a_content_length(customer: Customer, provider: Provider) -> None:
    body = good("x" * 9_000_000 + FORMS["as JSON"])
    provider.status, provider.kind, provider.pieces = 200, "application/json", [body]
    provider.headers = [("content-length", str(len(body)))]
    response = ask(customer)
    assert response.headers["content-length"] == str(len(body)) == str(len(response.content))
    assert "0123456789" not in response.text


def test_the_key_is_removed_from_audio(customer: Customer, provider: Provider) -> None:
    set_price(customer.farebox, "groq", "tts-1")
    set_provider(customer.farebox, "groq", base_url=provider.url, api_key=KEY)
    provider.status, provider.kind = 200, "audio/mpeg"
    provider.pieces = [b"\xff\xfb\x90" + bytes(range(256)) + KEY.encode() + b"\x00\xff"]
    response = httpx.post(
        f"{customer.gateway_url}/groq/audio/speech",
        json={"model": "tts-1", "input": "Hello", "voice": "x"},
        headers=customer.headers,
    )
    assert response.status_code == 200, response.text
    assert response.content == provider.pieces[0].replace(KEY.encode(), b"*" * len(KEY))


def test_the_key_is_removed_from_operator_alarms(customer: Customer, provider: Provider) -> None:
    provider.says(401, {"error": {"message": f"{BASIC} is no key", "code": "sk-op", "type": FORMS["in base64"]}})
    check(customer, ask(customer))
    content = str(alarmed(customer.farebox).content)
    assert leaks_in(content) == []
    customer.farebox.run(customer.farebox.services.database.write(lambda c: resolve_alarms(c, 2)))
    plain = "sk-plain-0123456789-tail"  # which looks like an error code
    set_provider(customer.farebox, SLUG, base_url=provider.url, api_key=plain)
    provider.says(401, {"error": {"message": "No", "code": plain}})
    assert plain not in ask(customer).text
    reported = alarmed(customer.farebox).content
    assert (reported["code"], "0123456789" in str(reported)) == ("[removed]", False)


def test_a_key_of_the_callers_own_passes_but_is_not_kept(customer: Customer, provider: Provider) -> None:
    own = {"cf-aig-authorization": f"Bearer {customer.token}", "authorization": f"Bearer {KEY}"}
    for status in (200, 401):
        provider.says(status, {"error": {"message": f"{KEY} and {BASIC}"}})
        response = ask(customer, own)
        assert (response.status_code, response.content) == (status, provider.pieces[0])
        kept = stored_body(customer, response.headers["cf-aig-log-id"])
        assert "error" in kept
        assert leaks_in(kept) == []
    own = {"cf-aig-authorization": f"Bearer {customer.token}"}
    response = ask(customer, own, path=f"chat/completions?key={quote(KEY, safe='')}")
    assert response.content == provider.pieces[0]
    assert "0123456789" not in stored_body(customer, response.headers["cf-aig-log-id"])
