"""The official SDKs of OpenAI, Anthropic and Google with nothing changed but base URL and key: they work, and their
usage is charged to the nano-dollar."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
import pytest

from farebox.money import parse_usd
from tests.calls.kit import log_rows, price_of
from tests.sdks import anthropic, genai, openai
from tests.support import Customer

pytestmark = pytest.mark.slow

How = Literal["as the key", "as cf-aig-authorization"]

TEXT = "Please tell me a short story"
WORDS_IN = len(TEXT.split())


@dataclass
class ClientResult:
    """What a client saw of its call: text and usage."""

    text: str
    usage: tuple[int, int] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    words_out: int | None = None

    @property
    def used(self) -> tuple[int, int]:
        """The true usage: one word is one token."""
        return WORDS_IN, len(self.text.split()) if self.words_out is None else self.words_out


class Clients:
    """Makes SDK clients for a customer, and closes them."""

    def __init__(self, customer: Customer, how: How, stack: ExitStack) -> None:
        self.customer = customer
        self._by_header = how == "as cf-aig-authorization"
        self._stack = stack

    @property
    def _headers(self) -> dict[str, str]:
        return {"cf-aig-authorization": f"Bearer {self.customer.token}"} if self._by_header else {}

    def openai(self, base_url: str) -> openai.OpenAI:
        # This SDK and Google's always send the key's header; an empty one is no key.
        headers = {**self._headers, "Authorization": ""} if self._by_header else {}
        key = "nothing" if self._by_header else self.customer.token
        client = openai.OpenAI(api_key=key, base_url=base_url, default_headers=headers, max_retries=0)
        return self._stack.enter_context(client)

    def anthropic(self, base_url: str) -> anthropic.Anthropic:
        omit = anthropic.Omit()
        headers: Any = {**self._headers, "Authorization": omit, "X-Api-Key": omit} if self._by_header else {}
        key = "nothing" if self._by_header else self.customer.token
        client = anthropic.Anthropic(api_key=key, base_url=base_url, default_headers=headers, max_retries=0)
        return self._stack.enter_context(client)

    def google(self, base_url: str) -> genai.Client:
        headers = {**self._headers, "x-goog-api-key": ""} if self._by_header else {}
        options = genai.types.HttpOptions(base_url=base_url, headers=headers)
        key = "nothing" if self._by_header else self.customer.token
        return self._stack.enter_context(genai.Client(api_key=key, http_options=options))


@pytest.fixture(params=["as the key", "as cf-aig-authorization"])
def clients(customer: Customer, request: pytest.FixtureRequest) -> Iterator[Clients]:
    with ExitStack() as stack:
        yield Clients(customer, request.param, stack)


def base(customer: Customer, way: str) -> str:
    return f"{customer.api_url}/ai/v1" if way == "rest" else f"{customer.gateway_url}/{way}"


def model(way: str) -> str:
    return "demo-1" if way == "demo" else "demo/demo-1"


def messages() -> list[Any]:
    return [{"role": "user", "content": TEXT}]


# --- OpenAI -----------------------------------------------------------------------------------------------------------


def openai_chat(clients: Clients, way: str) -> ClientResult:
    client = clients.openai(base(clients.customer, way))
    raw = client.chat.completions.with_raw_response.create(model=model(way), messages=messages())
    response = raw.parse()
    assert response.usage is not None
    assert response.choices[0].message.content is not None
    return ClientResult(
        response.choices[0].message.content,
        (response.usage.prompt_tokens, response.usage.completion_tokens),
        dict(raw.headers),
    )


def openai_chat_stream(clients: Clients, way: str) -> ClientResult:
    client = clients.openai(base(clients.customer, way))
    raw = client.chat.completions.with_raw_response.create(model=model(way), messages=messages(), stream=True)
    text = ""
    for chunk in raw.parse():
        assert chunk.choices, "the usage chunk was not requested"
        assert chunk.usage is None
        text += chunk.choices[0].delta.content or ""
    return ClientResult(text, None, dict(raw.headers))


def openai_chat_stream_usage(clients: Clients, way: str) -> ClientResult:
    client = clients.openai(base(clients.customer, way))
    raw = client.chat.completions.with_raw_response.create(
        model=model(way), messages=messages(), stream=True, stream_options={"include_usage": True}
    )
    text, last = "", None
    for chunk in raw.parse():
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        last = chunk
    assert last is not None
    assert last.usage is not None, "the requested usage chunk comes last"
    return ClientResult(text, (last.usage.prompt_tokens, last.usage.completion_tokens), dict(raw.headers))


def openai_responses(clients: Clients, way: str) -> ClientResult:
    client = clients.openai(base(clients.customer, way))
    raw = client.responses.with_raw_response.create(model=model(way), input=TEXT)
    response = raw.parse()
    assert response.usage is not None
    usage = (response.usage.input_tokens, response.usage.output_tokens)
    return ClientResult(response.output_text, usage, dict(raw.headers))


def openai_responses_stream(clients: Clients, way: str) -> ClientResult:
    client = clients.openai(base(clients.customer, way))
    raw = client.responses.with_raw_response.create(model=model(way), input=TEXT, stream=True)
    text, usage = "", None
    for event in raw.parse():
        if event.type == "response.output_text.delta":
            text += event.delta
        elif event.type == "response.completed":
            assert event.response.usage is not None
            usage = (event.response.usage.input_tokens, event.response.usage.output_tokens)
    assert usage is not None, "the terminal event"
    return ClientResult(text, usage, dict(raw.headers))


def openai_embeddings(clients: Clients, way: str) -> ClientResult:
    client = clients.openai(base(clients.customer, way))
    raw = client.embeddings.with_raw_response.create(model=model(way), input=TEXT)
    response = raw.parse()
    assert len(response.data[0].embedding) == 64
    return ClientResult("", (response.usage.prompt_tokens, 0), dict(raw.headers))


# --- Anthropic, Google ------------------------------------------------------------------------------------------------


def anthropic_messages(clients: Clients, way: str) -> ClientResult:
    client = clients.anthropic(base(clients.customer, way))
    raw = client.messages.with_raw_response.create(model=model(way), messages=messages(), max_tokens=500)
    response = raw.parse()
    block = response.content[0]
    assert block.type == "text"
    return ClientResult(block.text, (response.usage.input_tokens, response.usage.output_tokens), dict(raw.headers))


def anthropic_stream(clients: Clients, way: str) -> ClientResult:
    client = clients.anthropic(base(clients.customer, way))
    with client.messages.stream(model=model(way), messages=messages(), max_tokens=500) as stream:
        text = "".join(stream.text_stream)
        usage = stream.get_final_message().usage
        return ClientResult(text, (usage.input_tokens, usage.output_tokens), dict(stream.response.headers))


def google_generate(clients: Clients, way: str) -> ClientResult:
    client = clients.google(base(clients.customer, way))
    response = client.models.generate_content(model=model(way), contents=TEXT)
    assert response.text is not None
    assert response.sdk_http_response is not None
    headers = {name.lower(): value for name, value in (response.sdk_http_response.headers or {}).items()}
    return ClientResult(response.text, _google_usage(response), headers)


def google_stream(clients: Clients, way: str) -> ClientResult:
    client = clients.google(base(clients.customer, way))
    text, usage = "", None
    for chunk in client.models.generate_content_stream(model=model(way), contents=TEXT):
        text += chunk.text or ""
        if chunk.usage_metadata is not None:
            usage = _google_usage(chunk)
    return ClientResult(text, usage)


def _google_usage(response: genai.types.GenerateContentResponse) -> tuple[int, int]:
    assert response.usage_metadata is not None
    return response.usage_metadata.prompt_token_count or 0, response.usage_metadata.candidates_token_count or 0


CALLS: dict[str, tuple[Callable[[Clients, str], ClientResult], str]] = {
    f"{call.__name__} by {way}": (call, way)
    for call, ways in {
        openai_chat: ("demo", "compat", "rest"),
        openai_chat_stream: ("demo", "compat", "rest"),
        openai_chat_stream_usage: ("demo", "compat", "rest"),
        openai_responses: ("demo", "rest"),
        openai_responses_stream: ("demo", "rest"),
        openai_embeddings: ("demo", "compat"),
        anthropic_messages: ("demo", "rest"),
        anthropic_stream: ("demo", "rest"),
        google_generate: ("demo",),
        google_stream: ("demo",),
    }.items()
    for way in ways
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_works_and_costs_exactly_what_it_used(clients: Clients, name: str) -> None:
    call, way = CALLS[name]
    customer = clients.customer
    before = customer.balance
    reported = call(clients, way)

    charge = price_of(*reported.used)
    assert charge > 0
    if reported.usage is not None:
        assert reported.usage == reported.used, "the client gets the true usage"
    after = customer.balance
    assert before.posted - after.posted == charge
    assert after.held == 0

    [row] = log_rows(customer)
    assert (row["tokens_in"], row["tokens_out"] or 0) == reported.used
    assert row["cost"] == charge / 10**9
    assert row["farebox"]["charge_nanos"] == charge
    assert row["farebox"]["outcome"] == "charged"
    assert row["success"] is True
    assert row["wholesale"] is True
    assert (row["provider"], row["model"]) == ("demo", "demo-1")

    receipt = customer.receipt(row["id"])
    assert receipt["charge_nanos"] == charge
    assert receipt["usage_source"] == "provider"
    assert receipt["cost_nanos"] == str(charge)
    assert sum(int(line["cost_nanos"]) for line in receipt["lines"]) == charge
    assert "policy" not in receipt
    assert "notes" not in receipt

    if reported.headers:
        assert reported.headers["cf-aig-log-id"] == row["id"]
        assert reported.headers["cf-aig-step"] == "0"
        if "farebox-charge-usd" in reported.headers:
            assert parse_usd(reported.headers["farebox-charge-usd"]) == charge
            assert parse_usd(reported.headers["farebox-balance-usd"]) == after.posted
        else:
            assert "stream" in name, "a response that is not streamed states its charge"
            assert parse_usd(reported.headers["farebox-hold-usd"]) >= charge
            assert parse_usd(reported.headers["farebox-hold-usd"]) == receipt["hold_nanos"]


@pytest.mark.parametrize("how", ["as the key", "as cf-aig-authorization"])
def test_counting_tokens_is_free(customer: Customer, how: How) -> None:
    with ExitStack() as stack:
        client = Clients(customer, how, stack).anthropic(base(customer, "demo"))
        assert client.messages.count_tokens(model="demo-1", messages=messages()).input_tokens == WORDS_IN
    assert customer.balance.posted == parse_usd("5")
    [row] = log_rows(customer)
    assert (row["cost"], row["farebox"]["outcome"]) == (0, "free")


def test_google_counts_tokens_free_of_charge(customer: Customer) -> None:
    with ExitStack() as stack:
        client = Clients(customer, "as the key", stack).google(base(customer, "demo"))
        assert client.models.count_tokens(model="demo-1", contents=TEXT).total_tokens == WORDS_IN
    assert customer.balance.posted == parse_usd("5")


@pytest.mark.parametrize(("way", "expected"), [("demo", "demo-1"), ("compat", "demo/demo-1"), ("rest", "demo/demo-1")])
def test_models_are_listed_and_cost_nothing(clients: Clients, way: str, expected: str) -> None:
    client = clients.openai(base(clients.customer, way))
    assert expected in [found.id for found in client.models.list()]
    assert clients.customer.balance.posted == parse_usd("5")


def test_an_async_client_with_many_calls_at_once(customer: Customer) -> None:
    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(
            api_key=customer.token, base_url=base(customer, "compat"), max_retries=0
        ) as client:
            return await asyncio.gather(
                *(client.chat.completions.create(model="demo/demo-1", messages=messages()) for _ in range(20))
            )

    responses = asyncio.run(ask())
    spent = sum(price_of(response.usage.prompt_tokens, response.usage.completion_tokens) for response in responses)
    assert len(responses) == 20
    assert parse_usd("5") - customer.balance.posted == spent
    assert len({row["id"] for row in log_rows(customer)}) == 20


def test_cached_tokens_cost_their_own_price(customer: Customer) -> None:
    response = customer.chat(TEXT, headers={"x-demo": "cached=4"})
    usage = response.json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 4
    charge = (WORDS_IN - 4) * 1_000 + 4 * 100 + usage["completion_tokens"] * 2_000
    assert customer.receipt(response.headers["cf-aig-log-id"])["charge_nanos"] == charge
    assert parse_usd("5") - customer.balance.posted == charge


def test_reasoning_and_several_choices_are_paid_for(customer: Customer) -> None:
    response = customer.chat(TEXT, n=3, headers={"x-demo": "reasoning=7 tokens=5"})
    assert len(response.json()["choices"]) == 3
    assert parse_usd("5") - customer.balance.posted == price_of(WORDS_IN, 3 * 5 + 7)


def test_tools_images_and_unknown_fields_arrive_as_they_were_sent(customer: Customer) -> None:
    body = (
        b'{"model": "demo-1",  "messages":[{"role":"user","content":[{"type":"text","text":"caf\\u00e9 \xe2\x82\xac"},'
        b'{"type":"image_url","image_url":{"url":"data:image/gif;base64,R0lGODlhAQABAAAAACw="}}]}],'
        b'"a_field_of_tomorrow": {"x": [1.0, 1e3, null]}, "tools": []}'
    )
    response = httpx.post(
        f"{customer.gateway_url}/demo/chat/completions?trace=a%20b",
        content=body,
        headers=customer.headers | {"content-type": "application/json", "openai-beta": "x=y"},
    )
    assert response.status_code == 200, response.text
    seen = customer.farebox.demo_journal(1)[-1]
    assert seen["body"].encode() == body, "no byte is changed"
    assert seen["path"] == "/v1/chat/completions"
    assert seen["query"] == "trace=a%20b"
    assert seen["headers"]["openai-beta"] == "x=y"


def test_a_stream_is_passed_on_event_by_event(customer: Customer) -> None:
    """The first words arrive long before the last: nothing buffers the stream."""
    with openai.OpenAI(api_key=customer.token, base_url=base(customer, "compat")) as client:
        stream = client.chat.completions.create(
            model="demo/demo-1", messages=messages(), stream=True, extra_headers={"x-demo": "gap=60 tokens=8"}
        )
        seen = [time.monotonic() for chunk in stream if chunk.choices[0].delta.content]
    assert len(seen) == 8
    assert seen[-1] - seen[0] > 0.25, "all words arrived at the end"


def test_the_usage_chunk_is_taken_out_byte_by_byte(customer: Customer) -> None:
    """Also if the provider sends one byte at a time, which splits the chunk."""
    with httpx.stream(
        "POST",
        f"{customer.gateway_url}/compat/chat/completions",
        json={"model": "demo/demo-1", "messages": messages(), "stream": True},
        headers=customer.headers | {"x-demo": "trickle=1 tokens=3"},
    ) as response:
        events = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]
    assert all(event["choices"] and event.get("usage") is None for event in events)
    sent = json.loads(customer.farebox.demo_journal(1)[-1]["body"])
    assert sent["stream_options"] == {"include_usage": True}
    assert parse_usd("5") - customer.balance.posted == price_of(WORDS_IN, 3)
