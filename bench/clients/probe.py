"""Runs one client in its own environment, and reports what it does and shows when a call is refused or breaks off.

Reads a JSON object from standard input, `{"client": NAME, "base": URL, "account": ID, "token": TOKEN, "stream": BOOL,
"prompt": TEXT}`, and prints what the client's user sees.
"""

import asyncio
import contextlib
import json
import logging
import sys
import warnings
from typing import Any

MODEL = "acme-1"


def openai(call: Any) -> Any:
    from openai import OpenAI

    with OpenAI(base_url=f"{call.base}/openai", api_key=call.token) as client:
        found = client.chat.completions.create(model=MODEL, messages=call.messages, stream=call.stream)
        return [chunk.choices[0].delta.content for chunk in found if chunk.choices] if call.stream else found


def openai_responses(call: Any) -> Any:
    from openai import OpenAI

    with OpenAI(base_url=f"{call.base}/openai", api_key=call.token) as client:
        found = client.responses.create(model=MODEL, input=call.prompt, stream=call.stream)
        return [event.type for event in found] if call.stream else found


def anthropic(call: Any) -> Any:
    from anthropic import Anthropic

    with Anthropic(base_url=f"{call.base}/anthropic", api_key=call.token) as client:
        found = client.messages.create(model=MODEL, max_tokens=50, messages=call.messages, stream=call.stream)
        return [event.type for event in found] if call.stream else found


def google_genai(call: Any) -> Any:
    from google import genai
    from google.genai import types

    headers = {"cf-aig-authorization": f"Bearer {call.token}"}
    options = types.HttpOptions(base_url=f"{call.base}/google-ai-studio", headers=headers)
    with genai.Client(api_key=call.token, http_options=options) as client:
        if call.stream:
            return [chunk.text for chunk in client.models.generate_content_stream(model=MODEL, contents=call.prompt)]
        return client.models.generate_content(model=MODEL, contents=call.prompt)


def groq(call: Any) -> Any:
    from groq import Groq

    with Groq(base_url=f"{call.base}/groq", api_key=call.token) as client:
        found = client.chat.completions.create(model=MODEL, messages=call.messages, stream=call.stream)
        return list(found) if call.stream else found


def mistral(call: Any) -> Any:
    from mistralai.client import Mistral

    with Mistral(server_url=f"{call.base}/mistral", api_key=call.token) as client:
        if call.stream:
            return list(client.chat.stream(model=MODEL, messages=call.messages))
        return client.chat.complete(model=MODEL, messages=call.messages)


def cohere(call: Any) -> Any:
    import cohere

    client = cohere.ClientV2(call.token, base_url=f"{call.base}/cohere")
    if call.stream:
        return [event.type for event in client.chat_stream(model=MODEL, messages=call.messages)]
    return client.chat(model=MODEL, messages=call.messages)


def litellm(call: Any) -> Any:
    import litellm

    where = {"api_base": f"{call.base}/openai", "api_key": call.token}
    found = litellm.completion(model=f"openai/{MODEL}", messages=call.messages, **where, stream=call.stream)
    return list(found) if call.stream else found


def langchain_openai(call: Any) -> Any:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model=MODEL, base_url=f"{call.base}/openai", api_key=call.token, stream_usage=True)
    return list(model.stream(call.prompt)) if call.stream else model.invoke(call.prompt)


def langchain_anthropic(call: Any) -> Any:
    from langchain_anthropic import ChatAnthropic

    model = ChatAnthropic(model=MODEL, base_url=f"{call.base}/anthropic", api_key=call.token, max_tokens=50)
    return list(model.stream(call.prompt)) if call.stream else model.invoke(call.prompt)


def langchain_google_genai(call: Any) -> Any:
    from langchain_google_genai import ChatGoogleGenerativeAI

    model = ChatGoogleGenerativeAI(model=MODEL, google_api_key=call.token, base_url=f"{call.base}/google-ai-studio")
    return list(model.stream(call.prompt)) if call.stream else model.invoke(call.prompt)


def langchain_cloudflare(call: Any) -> Any:
    from langchain_cloudflare import ChatCloudflareWorkersAI

    where = {"base_url": call.api, "account_id": call.account, "api_token": call.token, "ai_gateway": "default"}
    model = ChatCloudflareWorkersAI(model="@cf/acme/acme-1", **where)
    return list(model.stream(call.prompt)) if call.stream else model.invoke(call.prompt)


def cloudflare(call: Any) -> Any:
    from cloudflare import Cloudflare

    with Cloudflare(base_url=call.api, api_token=call.token) as client:
        return client.ai.run("@cf/acme/acme-1", account_id=call.account, messages=call.messages)


def litellm_anthropic(call: Any) -> Any:
    import litellm

    where = {"api_base": f"{call.base}/anthropic", "api_key": call.token}
    found = litellm.completion(model=f"anthropic/{MODEL}", messages=call.messages, **where, stream=call.stream)
    return list(found) if call.stream else found


def pydantic_ai(call: Any) -> Any:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=f"{call.base}/openai", api_key=call.token)
    agent = Agent(OpenAIChatModel(MODEL, provider=provider))

    async def streamed() -> Any:
        async with agent.run_stream(call.prompt) as result:
            return [text async for text in result.stream_text()]

    return asyncio.run(streamed()) if call.stream else agent.run_sync(call.prompt)


def openai_agents(call: Any) -> Any:
    from agents import Agent, OpenAIResponsesModel, Runner, set_tracing_disabled
    from openai import AsyncOpenAI

    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"{call.base}/openai", api_key=call.token)
    agent = Agent(name="Acme", model=OpenAIResponsesModel(MODEL, client))

    async def streamed() -> Any:
        result = Runner.run_streamed(agent, call.prompt)
        return [event.type async for event in result.stream_events()], result.final_output

    return asyncio.run(streamed()) if call.stream else Runner.run_sync(agent, call.prompt)


def instructor(call: Any) -> Any:
    import instructor
    from openai import OpenAI
    from pydantic import BaseModel

    class Said(BaseModel):
        text: str

    client = instructor.from_openai(OpenAI(base_url=f"{call.base}/openai", api_key=call.token))
    if call.stream:
        found = client.chat.completions.create_partial(model=MODEL, response_model=Said, messages=call.messages)
        return list(found)
    return client.chat.completions.create(model=MODEL, response_model=Said, messages=call.messages)


def llama_index(call: Any) -> Any:
    from llama_index.llms.openai_like import OpenAILike

    where = {"api_base": f"{call.base}/openai", "api_key": call.token}
    model = OpenAILike(model=MODEL, is_chat_model=True, **where)
    return list(model.stream_complete(call.prompt)) if call.stream else model.complete(call.prompt)


class Call:
    """The call that standard input describes."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.base, self.api, self.account, self.token = (asked[name] for name in ("base", "api", "account", "token"))
        self.stream, self.prompt = asked["stream"], asked["prompt"]
        self.messages = [{"role": "user", "content": self.prompt}]


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    asked = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        try:
            shown = f"no error: {globals()[asked['client']](Call(asked))!r}"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the user sees
            shown = f"{type(error).__name__}: {error}"
    print(shown)


if __name__ == "__main__":
    main()
