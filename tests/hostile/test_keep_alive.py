"""Keep-alive comments in silent event streams: where they appear, and where they never do."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from farebox.http.keep_alive import COMMENT
from tests.calls.kit import later_row, log_row
from tests.engines import ON_BOTH_ENGINES
from tests.hostile.stepwise import CHAT, COMPAT, END, Stepwise, requesting, stepwise, words
from tests.sdks import anthropic, genai, openai
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import until


@pytest.fixture(scope="module")
def frequent_comments(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """A server that sends a comment after a fiftieth of a second of silence."""
    with running_farebox(tmp_path_factory.mktemp("short"), stream_comment_ms=20) as served:
        yield served


@pytest.fixture
def customer(frequent_comments: Farebox) -> Customer:
    return frequent_comments.funded("5")


@pytest.fixture
def provider(frequent_comments: Farebox) -> Iterator[Stepwise]:
    with stepwise(frequent_comments) as upstream:
        yield upstream


class TestOnBothEngines:
    pytestmark = ON_BOTH_ENGINES

    def test_a_silent_stream_is_kept_alive_and_charged_normally(self, customer: Customer, provider: Stepwise) -> None:
        with requesting(customer, COMPAT, CHAT) as reading:
            reading.until(COMMENT)  # before the first event
            provider.say(words("one"))
            reading.until(COMMENT, 3)
            provider.say(words(" two"), *END)
            provider.end()
            body = reading.rest()
        assert body.replace(COMMENT, b"").startswith(words("one") + words(" two"))
        assert body.endswith(END[-1])
        row = log_row(customer, reading.response.headers["cf-aig-log-id"])
        assert (row["success"], row["tokens_in"], row["tokens_out"]) == (True, 3, 2)
        assert COMMENT.decode() not in json.dumps(row)

    def test_a_disconnect_during_a_silence_is_noticed(self, customer: Customer, provider: Stepwise) -> None:
        with requesting(customer, COMPAT, CHAT) as reading:
            provider.say(words("one"))
            reading.until(b"one")
            reading.until(COMMENT, 2)
        until(lambda: provider.left, "the provider's being left")
        assert not later_row(customer, reading.response.headers["cf-aig-log-id"])["success"]


GOOGLE = "google-ai-studio/v1beta/models/m:streamGenerateContent"
OPENAI, ASKED = "openai/chat/completions", CHAT | {"model": "m"}
QUESTION = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}


@pytest.mark.parametrize(
    ("slug", "path", "body", "content_type", "first"),
    [
        ("openai", "openai/chat/completions", CHAT | {"model": "m"}, "text/event-stream", words("one")[:-1]),
        (
            "openai",
            "openai/chat/completions",
            CHAT | {"model": "m"},
            "text/event-stream",
            words("one")[:-1] + b"event: x\n",
        ),
        ("google-ai-studio", f"{GOOGLE}?alt=sse", QUESTION, "text/event-stream", b'data: {"candidates": []}\r\n\r\n'),
        ("google-ai-studio", GOOGLE, QUESTION, "application/json", b'[{"candidates": []}\n\n'),
        ("openai", OPENAI, ASKED, "application/x-ndjson", b'{"a": 1}\n{"b": 2}\n\n\n'),
    ],
    ids=["within an event", "after a line that may begin one", "Google's events", "a JSON array", "lines of JSON"],
)
def test_no_comment_is_sent_inside_an_event(
    frequent_comments: Farebox,
    customer: Customer,
    provider: Stepwise,
    slug: str,
    path: str,
    body: dict[str, Any],
    content_type: str,
    first: bytes,
) -> None:
    """Another stream is the clock: once it has been silent twice as long as the interval, so has this one."""
    with stepwise(frequent_comments, slug) as other:
        other.headers = [("content-type", content_type)]
        other.say(first)
        with (
            requesting(customer, path, body) as quiet,
            requesting(customer, COMPAT, CHAT) as clock,
        ):
            quiet.until(first[:8])
            clock.until(COMMENT, 4)
            other.say(b"\ndata: 1\n\n")
            other.end()
            after_first = quiet.rest().partition(first[:8])[2]
            assert b"keep-alive" not in after_first.partition(b"data: 1")[0]  # after this a comment is allowed


class Sdk(NamedTuple):
    """How a provider's official client requests a stream, and reads it."""

    slug: str
    events: tuple[bytes, ...]
    read: Callable[[Customer], Iterator[str]]
    """The pieces of text."""


def _openai(customer: Customer) -> Iterator[str]:
    asked: Any = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}
    base_url = f"{customer.gateway_url}/openai"
    with openai.OpenAI(base_url=base_url, api_key=customer.token, max_retries=0) as client:
        for chunk in client.chat.completions.create(**asked):
            if chunk.choices and chunk.choices[0].delta.content:
                yield chunk.choices[0].delta.content


def _anthropic(customer: Customer) -> Iterator[str]:
    base_url = f"{customer.gateway_url}/anthropic"
    with (
        anthropic.Anthropic(base_url=base_url, api_key=customer.token, max_retries=0) as client,
        client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]) as stream,
    ):
        yield from stream.text_stream


def _google(customer: Customer) -> Iterator[str]:
    options = genai.types.HttpOptions(base_url=f"{customer.gateway_url}/google-ai-studio")
    with genai.Client(api_key=customer.token, http_options=options) as client:
        for chunk in client.models.generate_content_stream(model="m", contents="x"):
            if chunk.text:
                yield chunk.text


def _named(**data: Any) -> bytes:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()


def _candidate(text: str, **more: Any) -> bytes:
    candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0, **more}
    usage = {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5}
    return f"data: {json.dumps({'candidates': [candidate], 'usageMetadata': usage})}\r\n\r\n".encode()


_MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": None,
}
SDKS = [
    Sdk("openai", (words("one"), words(" two"), b"".join(END)), _openai),
    Sdk(
        "anthropic",
        (
            _named(type="message_start", message={**_MESSAGE, "usage": {"input_tokens": 3, "output_tokens": 1}})
            + _named(type="content_block_start", index=0, content_block={"type": "text", "text": ""})
            + _named(type="content_block_delta", index=0, delta={"type": "text_delta", "text": "one"}),
            _named(type="content_block_delta", index=0, delta={"type": "text_delta", "text": " two"}),
            _named(type="content_block_stop", index=0)
            + _named(type="message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2})
            + _named(type="message_stop"),
        ),
        _anthropic,
    ),
    Sdk("google-ai-studio", (_candidate("one"), _candidate(" two", finishReason="STOP")), _google),
]


@pytest.mark.parametrize("sdk", SDKS, ids=[sdk.slug for sdk in SDKS])
def test_sdks_read_a_stream_with_silences(
    frequent_comments: Farebox, customer: Customer, provider: Stepwise, sdk: Sdk
) -> None:
    """OpenAI's and Anthropic's get comments; Google's, which would raise on one, does not."""
    with (
        stepwise(frequent_comments, sdk.slug) as other,
        requesting(customer, COMPAT, CHAT) as clock,
        ThreadPoolExecutor(1) as threads,
    ):
        said = threads.submit(lambda: list(sdk.read(customer)))
        until(lambda: other.bodies or said.done(), "the request")
        for event in sdk.events:
            clock.until(COMMENT, clock.got.count(COMMENT) + 3)
            other.say(event)
        other.end()
        assert said.result(60) == ["one", " two"]


def test_an_interval_of_zero_sends_no_comments(
    tmp_path: Path, frequent_comments: Farebox, customer: Customer, provider: Stepwise
) -> None:
    with (
        running_farebox(tmp_path, stream_comment_ms=0) as served,
        stepwise(served) as other,
        requesting(served.funded("5"), COMPAT, CHAT) as quiet,
        requesting(customer, COMPAT, CHAT) as clock,
    ):
        other.say(words("one"))
        quiet.until(b"one")
        clock.until(COMMENT, 4)
        other.say(*END)
        other.end()
        assert COMMENT not in quiet.rest()


def test_responses_forbid_buffering_and_caching(farebox: Farebox) -> None:
    """For caches and for buffering proxies; a provider's own directives are not passed on."""
    customer = farebox.funded("5")
    orders = [("cache-control", "public, max-age=60"), ("expires", "0"), ("x-accel-redirect", "/private")]
    with stepwise(farebox) as provider:
        provider.headers = [("content-type", "text/event-stream"), *orders, ("x-request-id", "r1")]
        with requesting(customer, COMPAT, CHAT) as reading:
            provider.say(*END)
            provider.end()
            reading.rest()
        upstream = reading.response.headers
        assert upstream.get_list("cache-control") == ["no-store, no-transform"]
        assert (upstream["x-accel-buffering"], upstream["x-request-id"]) == ("no", "r1")
        assert not {"expires", "x-accel-redirect"} & set(upstream)

        provider.headers = [("content-type", "application/json"), *orders]
        provider.say(b"{}")
        provider.end()
        whole = httpx.post(f"{customer.gateway_url}/{COMPAT}", json=CHAT | {"stream": False}, headers=customer.headers)
        assert (whole.headers.get_list("cache-control"), whole.status_code) == (["no-store"], 200)
        assert not {"expires", "x-accel-redirect", "x-accel-buffering"} & set(whole.headers)
    refused = httpx.post(f"{customer.gateway_url}/compat/chat/completions", json=CHAT)
    responses = [refused, httpx.get(f"{customer.api_url}/farebox/billing-profile", headers=customer.headers)]
    responses += [httpx.get(f"{customer.farebox.url}{path}") for path in ("/readyz", "/client/v4/accounts", "/nowhere")]
    page = httpx.get(f"{customer.farebox.url}/billing")
    assert {response.status_code for response in [*responses, page]} == {200, 303, 400, 401, 404}
    assert page.headers.get_list("cache-control") == ["no-store, no-transform"]
    assert {tuple(response.headers.get_list("cache-control")) for response in responses} == {("no-store",)}
