"""The official Anthropic client against the demo provider."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from farebox.demo_provider.provider import RunningProvider
from tests.sdks import anthropic

QUESTION = "How long is the Danube river?"
MESSAGES: Any = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
TOOL: Any = {
    "name": "get_weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture
async def client(demo: RunningProvider) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=demo.url, api_key="sk-test", max_retries=0) as client:
        yield client


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


async def test_messages_report_input_and_output_words(client: anthropic.AsyncAnthropic) -> None:
    message = await client.messages.create(model="claude-x", max_tokens=100, system="Be brief.", messages=MESSAGES)
    assert QUESTION in text_of(message)
    assert message.stop_reason == "end_turn"
    assert message.usage.input_tokens == 2 + 6
    assert message.usage.output_tokens == len(text_of(message).split())

    short = await client.messages.create(model="claude-x", max_tokens=3, messages=MESSAGES)
    assert short.stop_reason == "max_tokens"
    assert short.usage.output_tokens == len(text_of(short).split()) == 3


async def test_messages_stream(client: anthropic.AsyncAnthropic) -> None:
    async with client.messages.stream(model="claude-x", max_tokens=100, messages=MESSAGES) as stream:
        kinds = [event.type async for event in stream]
        message = await stream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert QUESTION in text_of(message)
    assert message.usage.input_tokens == 6
    assert message.usage.output_tokens == len(text_of(message).split())


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_tool_that_is_required(client: anthropic.AsyncAnthropic, streaming: bool) -> None:
    requested: Any = {
        "model": "claude-x",
        "max_tokens": 100,
        "messages": MESSAGES,
        "tools": [TOOL],
        "tool_choice": {"type": "any"},
    }
    if streaming:
        async with client.messages.stream(**requested) as stream:
            message = await stream.get_final_message()
    else:
        message = await client.messages.create(**requested)
    block = message.content[0]
    assert block.type == "tool_use"
    assert block.input == {"city": "demo"}
    assert message.stop_reason == "tool_use"
    assert message.usage.output_tokens == 2


async def test_cached_tokens_are_reported_separately_from_the_input(client: anthropic.AsyncAnthropic) -> None:
    message = await client.messages.create(
        model="claude-x",
        max_tokens=100,
        messages=MESSAGES,
        extra_headers={"x-demo": "cached=3, cache_write=2, reasoning=7"},
    )
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (1, 3, 2)
    assert usage.output_tokens == len(text_of(message).split()) + 7
    assert usage.output_tokens_details is not None
    assert usage.output_tokens_details.thinking_tokens == 7


async def test_counting_and_models(client: anthropic.AsyncAnthropic) -> None:
    assert (await client.messages.count_tokens(model="claude-x", messages=MESSAGES)).input_tokens == 6
    assert [model.id async for model in client.models.list()] == ["demo-1"]


async def test_errors(demo: RunningProvider, client: anthropic.AsyncAnthropic) -> None:
    demo.app.script(["status=429"])
    with pytest.raises(anthropic.RateLimitError) as caught:
        await client.messages.create(model="claude-x", max_tokens=9, messages=MESSAGES)
    assert caught.value.response.headers["retry-after"] == "1"
    demo.app.script(["error_event=1"])
    with pytest.raises(anthropic.APIStatusError, match="told to fail"):
        async with client.messages.stream(model="claude-x", max_tokens=100, messages=MESSAGES) as stream:
            await stream.until_done()
