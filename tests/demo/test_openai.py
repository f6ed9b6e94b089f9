"""The official OpenAI client against the demo provider."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from farebox.demo_provider.provider import RunningProvider
from tests.sdks import openai

QUESTION = "How long is the Danube river?"
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a place",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}


@pytest.fixture(params=["/v1", ""])
async def client(demo: RunningProvider, request: pytest.FixtureRequest) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=demo.url + request.param, api_key="sk-test", max_retries=0) as client:
        yield client


def words(text: str | None) -> int:
    return len((text or "").split())


async def test_chat_reports_input_and_output_words(client: openai.AsyncOpenAI) -> None:
    response = await client.chat.completions.create(
        model="gpt-4o-mini",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}],
    )
    text = response.choices[0].message.content
    assert text is not None
    assert QUESTION in text
    assert response.model == "gpt-4o-mini"
    assert response.choices[0].finish_reason == "stop"
    assert response.usage is not None
    assert response.usage.prompt_tokens == 2 + 6
    assert response.usage.completion_tokens == words(text)
    assert 12 <= words(text) <= 40
    assert response.usage.total_tokens == response.usage.prompt_tokens + response.usage.completion_tokens


async def test_chat_stops_at_max_tokens_in_every_choice(client: openai.AsyncOpenAI) -> None:
    response = await client.chat.completions.create(
        model="demo-1", messages=[{"role": "user", "content": QUESTION}], max_completion_tokens=5, n=3
    )
    assert [words(choice.message.content) for choice in response.choices] == [5, 5, 5]
    assert {choice.finish_reason for choice in response.choices} == {"length"}
    assert response.usage is not None
    assert response.usage.completion_tokens == 15


@pytest.mark.parametrize("requested", [True, False])
async def test_chat_streams_report_usage_only_if_requested(client: openai.AsyncOpenAI, requested: bool) -> None:
    stream = await client.chat.completions.create(
        model="demo-1",
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
        n=2,
        stream_options={"include_usage": requested},
    )
    texts, finishes, usages = ["", ""], [], []
    async for chunk in stream:
        if chunk.usage is not None:
            assert not chunk.choices
            usages.append(chunk.usage)
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finishes += [choice.finish_reason] if choice.finish_reason else []
    assert texts[0] == texts[1]
    assert QUESTION in texts[0]
    assert finishes == ["stop", "stop"]
    assert [(usage.prompt_tokens, usage.completion_tokens) for usage in usages] == (
        [(6, 2 * words(texts[0]))] if requested else []
    )


async def test_chat_calls_a_tool_that_is_required(client: openai.AsyncOpenAI) -> None:
    messages: Any = [{"role": "user", "content": QUESTION}]
    response = await client.chat.completions.create(
        model="demo-1", messages=messages, tools=[TOOL], tool_choice="required"
    )
    choice = response.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    call = choice.message.tool_calls[0]
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "demo", "days": 1}
    assert response.usage is not None
    # of the tool: its name (1), its description (4), and the names in `required` (2)
    assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (6 + 7, 2)

    async with client.chat.completions.stream(
        model="demo-1", messages=messages, tools=[TOOL], tool_choice="required"
    ) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.tool_calls is not None
    assert final.choices[0].message.tool_calls[0].function.arguments == call.function.arguments
    untouched = await client.chat.completions.create(model="demo-1", messages=messages, tools=[TOOL])
    assert untouched.choices[0].message.tool_calls is None


async def test_responses(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model="demo-1", instructions="Be brief.", input=QUESTION)
    assert QUESTION in response.output_text
    assert response.status == "completed"
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (2 + 6, words(response.output_text))

    short = await client.responses.create(
        model="demo-1", input=[{"role": "user", "content": QUESTION}], max_output_tokens=4
    )
    assert short.status == "incomplete"
    assert short.usage is not None
    assert short.usage.output_tokens == words(short.output_text) == 4


async def test_responses_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.responses.create(model="demo-1", input=QUESTION, stream=True)
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == text
    assert last.response.usage is not None
    assert last.response.usage.output_tokens == words(text)

    async with client.responses.stream(model="demo-1", input=QUESTION) as helper:
        final = await helper.get_final_response()
    assert final.output_text == text


async def test_responses_call_a_tool(client: openai.AsyncOpenAI) -> None:
    tool: Any = {"type": "function", "strict": False, **TOOL["function"]}
    async with client.responses.stream(
        model="demo-1", input=QUESTION, tools=[tool], tool_choice={"type": "function", "name": "get_weather"}
    ) as stream:
        final = await stream.get_final_response()
    item = final.output[0]
    assert item.type == "function_call"
    assert json.loads(item.arguments) == {"city": "demo", "days": 1}
    assert final.usage is not None
    assert final.usage.output_tokens == 2


async def test_embeddings(client: openai.AsyncOpenAI) -> None:
    texts = ["a b c", "d"]
    packed = await client.embeddings.create(model="demo-1", input=texts, dimensions=8)  # the client asks for base64
    plain = await client.embeddings.create(model="demo-1", input=texts, dimensions=8, encoding_format="float")
    assert packed.usage.prompt_tokens == plain.usage.total_tokens == 4
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert sum(number * number for number in one.embedding) == pytest.approx(1, abs=1e-5)
    assert plain.data[0].embedding != plain.data[1].embedding
    counted = await client.embeddings.create(model="demo-1", input=[[1, 2, 3], [4]])
    assert counted.usage.prompt_tokens == 4


async def test_the_other_endpoints(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["demo-1"]
    assert (await client.models.retrieve("gpt-4o")).id == "gpt-4o"

    verdict = await client.moderations.create(input=["one", "two"])
    assert [result.flagged for result in verdict.results] == [False, False]

    images = await client.images.generate(model="demo-1", prompt="a red fox", n=2)
    assert images.data is not None
    assert base64.b64decode(images.data[0].b64_json or "").startswith(b"\x89PNG")
    assert images.usage is not None
    assert (images.usage.input_tokens, images.usage.output_tokens) == (3, 2)

    speech = await client.audio.speech.create(model="demo-1", voice="alloy", input="Good day")
    assert speech.content.startswith(b"RIFF")

    seconds = bytes(3 * 32_000 - 1)
    spoken = await client.audio.transcriptions.create(model="demo-1", file=("a.wav", seconds), prompt="two words")
    assert spoken.usage is not None
    assert spoken.usage.type == "tokens"
    assert (spoken.usage.input_tokens, spoken.usage.output_tokens) == (2 + 30, words(spoken.text))
    whisper = await client.audio.transcriptions.create(model="whisper-1", file=("a.wav", seconds))
    assert whisper.usage is not None
    assert whisper.usage.type == "duration"
    assert whisper.usage.seconds == 3


async def test_errors_are_the_clients_own(demo: RunningProvider, client: openai.AsyncOpenAI) -> None:
    demo.app.script(["status=429", "status=500", "status=401"])
    for kind in (openai.RateLimitError, openai.InternalServerError, openai.AuthenticationError):
        with pytest.raises(kind):
            await client.models.list()
    with pytest.raises(openai.NotFoundError):
        await client.files.list()
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        await client.chat.completions.create(model="demo-1", messages=[], max_tokens=-1)


async def test_the_client_retries_by_retry_after(demo: RunningProvider, client: openai.AsyncOpenAI) -> None:
    demo.app.script(["status=503"])
    response = await client.with_options(max_retries=1).chat.completions.create(
        model="demo-1", messages=[{"role": "user", "content": QUESTION}]
    )
    assert response.usage is not None
    assert [entry["status"] for entry in demo.app.journal.last()] == [503, 200]


async def test_an_error_event_reaches_the_client(client: openai.AsyncOpenAI) -> None:
    chunks = await client.chat.completions.create(
        model="demo-1", messages=[{"role": "user", "content": "demo: error_event=1"}], stream=True
    )
    with pytest.raises(openai.APIError, match="told to fail"):
        async for _ in chunks:
            pass
    stream = await client.responses.create(model="demo-1", input="demo: error_event=1", stream=True)
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == [0, 1, 2, 3]
    assert events[-1].type == "error"
