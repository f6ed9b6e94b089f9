"""Bodies that are large or have very many parts: read outside the event loop, accepted unchanged if they are valid, and
otherwise refused with the name of the limit."""

import base64
import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from farebox.errors import BODY_TOO_COMPLEX
from farebox.helper_processes import HelperProcess
from farebox.providers.audio.length import IMMEDIATE_BYTES
from farebox.providers.formats.bounds import CONTAINERS_MAX, DEPTH_MAX, is_light
from tests.calls.kit import differences, set_price, set_provider
from tests.calls.upstream import Upstream, serving
from tests.calls.wire import COMPAT, chat_body
from tests.engines import ON_BOTH_ENGINES, SQLITE_ONLY
from tests.support import Customer, Farebox, running_farebox, running_with
from tests.waiting import until

pytestmark = ON_BOTH_ENGINES

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
ANSWER = {"object": "chat.completion", "choices": [{"message": {"content": "Hi"}}], "usage": USAGE}
STREAM = (
    b'data: {"choices":[{"delta":{"content":"Hi"},"index":0,"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\ndata: [DONE]\n\n'
)
MODEL = "gpt-5.4"
GOOGLE = "gemini-9"


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with serving() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def farebox(engine: str, provider: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("large")) as served:
        for slug, model in (("openai", MODEL), ("google-ai-studio", GOOGLE)):
            set_provider(served, slug, base_url=provider.url)
            set_price(served, slug, model)
        set_provider(served, "openrouter", base_url=provider.url)
        yield served


@pytest.fixture
def customer(farebox: Farebox, provider: Upstream) -> Customer:
    provider.says(json.dumps(ANSWER).encode())
    provider.sent.clear()
    return farebox.funded("1000")


def post(customer: Customer, body: bytes, path: str = "openai/v1/chat/completions") -> httpx.Response:
    headers = customer.headers | {"content-type": "application/json"}
    return httpx.post(f"{customer.gateway_url}/{path}".rstrip("/"), content=body, headers=headers, timeout=60)


def chat(content: Any, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **more}


def image(size: int) -> list[dict[str, Any]]:
    data = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + b"\0\0\4\0\0\0\4\0" + os.urandom(size)).decode()
    return [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}]


HONEST: dict[str, dict[str, Any]] = {
    "text of 10 MB, with brackets in it": chat('He said: "[{"\\' * 700_000),
    "a picture of 20 MB": chat(image(15 * 2**20)),
    "30,000 parts": chat([{"type": "text", "text": f"Part {number}"} for number in range(30_000)]),
    "5,000 messages": {"model": MODEL, "messages": [{"role": "user", "content": "Go on"}] * 5_000},
    "500 tools": chat(
        "Hi",
        tools=[
            {"type": "function", "function": {"name": f"f{n}", "parameters": {"properties": {"a": {"type": "string"}}}}}
            for n in range(500)
        ],
    ),
}


@pytest.mark.parametrize("body", HONEST.values(), ids=HONEST)
def test_large_bodies_reach_the_provider_byte_for_byte(
    customer: Customer, provider: Upstream, body: dict[str, Any]
) -> None:
    sent = json.dumps(body).encode()
    response = post(customer, sent)
    assert response.status_code == 200, response.text
    assert provider.sent[0].body == sent
    assert customer.balance.posted < 1000 * 10**9
    assert differences(customer.farebox) == []


def test_single_fields_of_a_large_body_are_changed_and_nothing_else(customer: Customer, provider: Upstream) -> None:
    """The model of the common form, the request for a stream's usage, and a limit to what the credit can pay for."""
    provider.says(STREAM)
    poor = customer.farebox.funded("0.202")
    given = chat("word " * 40_000, stream=True, stream_options={"include_obfuscation": False}, seed=7)
    response = post(poor, json.dumps(given | {"model": f"openai/{MODEL}"}).encode(), "compat/chat/completions")
    assert response.status_code == 200, response.text
    [requested] = provider.requested
    limit = requested.pop("max_completion_tokens")
    assert 16 <= limit < 100_000
    assert response.headers["farebox-output-limit"] == str(limit)
    assert requested == given | {"stream_options": {"include_obfuscation": False, "include_usage": True}}


def test_a_nested_limit_of_a_large_body_keeps_its_other_options(customer: Customer, provider: Upstream) -> None:
    provider.says(json.dumps({"candidates": [], "usageMetadata": {"promptTokenCount": 1}}).encode())
    poor = customer.farebox.funded("0.202")
    given = {"contents": [{"parts": [{"text": "word " * 40_000}]}], "generationConfig": {"temperature": 0.5}}
    response = post(poor, json.dumps(given).encode(), f"google-ai-studio/v1beta/models/{GOOGLE}:generateContent")
    assert response.status_code == 200, response.text
    [requested] = provider.requested
    limit = requested["generationConfig"].pop("maxOutputTokens")
    assert response.headers["farebox-output-limit"] == str(limit)
    assert requested == given


def test_openrouter_gets_the_bound_of_a_large_request_too(customer: Customer, provider: Upstream) -> None:
    given = chat("word " * 40_000, provider={"order": ["acme"], "max_price": {"prompt": 1}}) | {
        "model": "acme/unlisted"
    }
    response = post(customer, json.dumps(given).encode(), "openrouter/v1/chat/completions")
    assert response.status_code == 200, response.text
    [requested] = provider.requested
    preferences = requested.pop("provider")
    assert preferences["order"] == ["acme"]
    assert (preferences["max_price"]["prompt"], preferences["max_price"]["completion"]) == (1, 25)
    assert requested == {name: value for name, value in given.items() if name != "provider"}


def test_steps_of_a_large_universal_request(customer: Customer, provider: Upstream) -> None:
    query = chat("word " * 40_000)
    steps = [
        {"provider": "nobody", "endpoint": "chat/completions", "query": query},
        {"provider": "openai", "endpoint": "chat/completions", "query": query},
    ]
    response = post(customer, json.dumps(steps).encode(), "")
    assert response.status_code == 200, response.text
    assert provider.requested == [query]


def nested(depth: int) -> bytes:
    return b'{"model":"%s","messages":[{"role":"user","content":%s%s}]}' % (
        MODEL.encode(),
        b'[{"content":' * (depth // 2) + b'["]"',
        b"]" + b"}]" * (depth // 2),
    )


def many(item: str, number: int, where: str = "content") -> bytes:
    body = chat("Hi", **{where: "?"}) if where != "content" else chat("?")
    return json.dumps(body).replace('"?"', f"[{','.join([item] * number)}]").encode()


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {  # built when they are sent: some are large
    "empty arrays": (lambda: many("[]", 7 * 10**6), f"{CONTAINERS_MAX:,} objects and arrays"),
    "empty tools": (lambda: many("{}", 10**6, "tools"), f"{CONTAINERS_MAX:,} objects and arrays"),
    "a few too many tools": (lambda: many('{"type":"function"}', 10_001, "tools"), "10,000 tools"),
    "pictures": (lambda: many('{"file_id":"a","type":"input_image"}', 5_000), "4,096 images"),
    "empty strings": (lambda: many('""', 3 * 10**6), "1,000,000 strings"),
    "deep": (lambda: nested(100_000), "nested too deeply"),
    "less deep, and small": (lambda: nested(600), "nested too deeply"),
    "not much too deep": (lambda: nested(DEPTH_MAX), "nested too deeply"),
    "fields": (
        lambda: json.dumps(chat("Hi") | {f"f{number}": number for number in range(20_000)}).encode(),
        "1,000 top-level fields",
    ),
}


@pytest.mark.parametrize(("made", "limit"), HOSTILE.values(), ids=HOSTILE)
def test_a_body_beyond_a_limit_is_refused_with_the_limits_name(
    customer: Customer, provider: Upstream, made: Callable[[], bytes], limit: str
) -> None:
    body = made()
    for path in ("openai/v1/chat/completions", "compat/chat/completions"):
        response = post(customer, body.replace(b'"gpt', b'"openai/gpt') if "compat" in path else body, path)
        assert response.status_code == 400, response.text
        assert error_of(response)["code"] == BODY_TOO_COMPLEX.code
        assert limit in error_of(response)["message"]
    assert not provider.sent
    assert differences(customer.farebox) == []


def test_depth_below_the_limit_is_served(customer: Customer) -> None:
    assert post(customer, nested(DEPTH_MAX - 6)).status_code == 200


def test_large_bodies_are_read_by_helpers_and_small_ones_are_not(customer: Customer, tmp_path: Path) -> None:
    with running_with(HelperProcess, uvloop.new_event_loop, None, tmp_path, helper_processes=2) as served:
        account = served.funded("100")
        assert account.chat("Hello").status_code == 200
        assert not helpers_of(served)
        assert account.chat("Hello " * 20_000).status_code == 200
        pids = helpers_of(served)
        assert len(pids) == 1
        assert account.chat("Hello " * 20_000).status_code == 200
        assert helpers_of(served) == pids
    assert not alive(pids)


def test_large_audio_is_measured_by_helpers(tmp_path: Path) -> None:
    """Even in a small body: elements of the file may have two bytes, and each is examined."""

    def sound(size: int) -> list[dict[str, object]]:
        data = base64.b64encode(b"\x1aE\xdf\xa3\x80" + b"\xec\x80" * (size // 2)).decode()
        return [{"type": "input_audio", "input_audio": {"data": data, "format": "webm"}}]

    with running_farebox(tmp_path) as served:
        account = served.funded("100")
        little = sound(IMMEDIATE_BYTES - 10)
        assert account.chat(messages=[{"role": "user", "content": little}]).status_code == 200
        assert not helpers_of(served)
        for much in (sound(IMMEDIATE_BYTES), little * 2):
            assert is_light(json.dumps(much).encode())
            response = account.chat(messages=[{"role": "user", "content": much}])
            assert response.status_code == 200, response.text
            assert helpers_of(served)


@SQLITE_ONLY
@pytest.mark.slow
def test_a_slow_body_affects_only_its_sender(tmp_path: Path) -> None:
    """Audio with two-byte elements, more than a second's work: its helper is killed, and all other clients are
    served."""
    data = base64.b64encode(b"\x1aE\xdf\xa3\x80" + b"\xec\x80" * 180_000).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "webm"}}
    body = chat_body().replace(b'"Hello there"', json.dumps([part] * 24).encode())
    with running_farebox(tmp_path, helper_processes=2) as served, ThreadPoolExecutor(1) as sender:
        served.services.helpers._cpu_seconds = 1
        hostile, other = served.funded("100"), served.funded("100")
        sent = sender.submit(post, hostile, body, COMPAT)
        until(lambda: served.services.held.held_bytes >= len(body), "it has come")
        assert other.chat("Hello " * 20_000).status_code == 200
        response = sent.result()
        assert (response.status_code, response.json()["errors"][0]["code"]) == (400, BODY_TOO_COMPLEX.code)
        assert hostile.chat("Hello " * 20_000).status_code == 200
        until(lambda: served.services.held.held_bytes == 0, "everything is given back")
        assert (hostile.balance.held, other.balance.held) == (0, 0)
        assert differences(served) == []


def test_a_killed_helper_is_replaced(customer: Customer) -> None:
    assert customer.chat("Hello " * 20_000).status_code == 200
    for pid in helpers_of(customer.farebox):
        os.kill(pid, signal.SIGKILL)
    responses = [customer.chat("Hello " * 20_000) for _ in range(3)]
    assert {response.status_code for response in responses} == {200}
    assert differences(customer.farebox) == []


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The one error of a response in the gateway's own form."""
    [error] = response.json()["errors"] if "errors" in response.json() else response.json()["error"]
    found: dict[str, Any] = error
    return found


def helpers_of(farebox: Farebox) -> list[int]:
    """Process ids."""
    return sorted(helper.pid for helper in farebox.services.helpers.alive)


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]
