"""The official Google client against the demo provider."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest

from farebox.demo_provider.provider import RunningProvider
from tests.sdks import genai

QUESTION = "How long is the Danube river?"


@pytest.fixture(params=["v1", "v1beta"])
async def client(demo: RunningProvider, request: pytest.FixtureRequest) -> AsyncIterator[genai.client.AsyncClient]:
    options = genai.types.HttpOptions(base_url=demo.url, api_version=request.param)
    with genai.Client(api_key="test", http_options=options) as client:
        async with client.aio as asynchronous:
            yield asynchronous


def words(text: str | None) -> int:
    return len((text or "").split())


async def test_generate_reports_input_and_output_words(client: genai.client.AsyncClient) -> None:
    response = await client.models.generate_content(
        model="gemini-x", contents=QUESTION, config=genai.types.GenerateContentConfig(system_instruction="Be brief.")
    )
    assert response.text is not None
    assert QUESTION in response.text
    usage = response.usage_metadata
    assert usage is not None
    assert (usage.prompt_token_count, usage.candidates_token_count) == (2 + 6, words(response.text))
    assert usage.total_token_count == 8 + words(response.text)

    short = await client.models.generate_content(
        model="gemini-x",
        contents=QUESTION,
        config=genai.types.GenerateContentConfig(max_output_tokens=4, candidate_count=2),
    )
    assert short.candidates is not None
    assert [candidate.finish_reason for candidate in short.candidates] == [genai.types.FinishReason.MAX_TOKENS] * 2
    assert short.usage_metadata is not None
    assert short.usage_metadata.candidates_token_count == 8


async def test_stream(client: genai.client.AsyncClient) -> None:
    text = ""
    stream = await client.models.generate_content_stream(
        model="gemini-x", contents=f"{QUESTION} demo: reasoning=5 cached=2"
    )
    async for chunk in stream:
        text += chunk.text or ""
        usage = chunk.usage_metadata
        assert usage is not None
        assert usage.candidates_token_count == words(text)
    assert usage is not None
    assert (usage.thoughts_token_count, usage.cached_content_token_count) == (5, 2)
    assert usage.total_token_count == 9 + words(text) + 5


async def test_stream_as_an_array(demo: RunningProvider, http: httpx2.AsyncClient) -> None:
    body = {"contents": [{"parts": [{"text": QUESTION}]}]}
    response = await http.post("/v1beta/models/gemini-x:streamGenerateContent", json=body)
    chunks = response.json()
    text = "".join(chunk["candidates"][0]["content"]["parts"][0]["text"] for chunk in chunks)
    assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"
    assert chunks[-1]["usageMetadata"]["candidatesTokenCount"] == words(text) == demo.app.journal.stats.tokens_out


async def test_a_tool_that_is_required(client: genai.client.AsyncClient) -> None:
    city = genai.types.Schema(type=genai.types.Type.STRING)
    parameters = genai.types.Schema(type=genai.types.Type.OBJECT, properties={"city": city}, required=["city"])
    function = genai.types.FunctionDeclaration(name="get_weather", parameters=parameters)
    calling = genai.types.FunctionCallingConfig(mode=genai.types.FunctionCallingConfigMode.ANY)
    config = genai.types.GenerateContentConfig(
        tools=[genai.types.Tool(function_declarations=[function])],
        tool_config=genai.types.ToolConfig(function_calling_config=calling),
    )
    response = await client.models.generate_content(model="gemini-x", contents=QUESTION, config=config)
    assert response.function_calls is not None
    assert response.function_calls[0].args == {"city": "demo"}
    assert response.usage_metadata is not None
    assert response.usage_metadata.candidates_token_count == 2


async def test_counting_models_and_errors(demo: RunningProvider, client: genai.client.AsyncClient) -> None:
    assert (await client.models.count_tokens(model="gemini-x", contents=QUESTION)).total_tokens == 6
    assert (await client.models.get(model="gemini-x")).name == "models/gemini-x"
    demo.app.script(["status=403"])
    with pytest.raises(genai.errors.ClientError, match="PERMISSION_DENIED"):
        await client.models.generate_content(model="gemini-x", contents=QUESTION)
