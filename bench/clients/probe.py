"""Runs in an environment that has one client: what it does, and shows, when a call is refused or breaks off.

Reads a JSON object from standard input, `{"client": NAME, "situations": {NAME: {"base": URL, "token": TOKEN}}}`, and
prints one of `{NAME: {"seconds": S, "shown": TEXT}}`.
"""

import contextlib
import io
import json
import logging
import sys
import time
import warnings
from typing import Any

MODEL = "acme-1"
MESSAGES = [{"role": "user", "content": "Hello"}]


def openai(base: str, token: str, stream: bool) -> Any:
    from openai import OpenAI

    with OpenAI(base_url=f"{base}/openai", api_key=token) as client:
        found = client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=stream)
        return [chunk.choices[0].delta.content for chunk in found if chunk.choices] if stream else found


def openai_responses(base: str, token: str, stream: bool) -> Any:
    from openai import OpenAI

    with OpenAI(base_url=f"{base}/openai", api_key=token) as client:
        found = client.responses.create(model=MODEL, input="Hello", stream=stream)
        return [event.type for event in found] if stream else found


def anthropic(base: str, token: str, stream: bool) -> Any:
    from anthropic import Anthropic

    with Anthropic(base_url=f"{base}/anthropic", api_key=token) as client:
        found = client.messages.create(model=MODEL, max_tokens=50, messages=MESSAGES, stream=stream)
        return [event.type for event in found] if stream else found


def google_genai(base: str, token: str, stream: bool) -> Any:
    from google import genai
    from google.genai import types

    headers = {"cf-aig-authorization": f"Bearer {token}"}
    options = types.HttpOptions(base_url=f"{base}/google-ai-studio", headers=headers)
    with genai.Client(api_key=token, http_options=options) as client:
        if stream:
            return [chunk.text for chunk in client.models.generate_content_stream(model=MODEL, contents="Hello")]
        return client.models.generate_content(model=MODEL, contents="Hello")


def groq(base: str, token: str, stream: bool) -> Any:
    from groq import Groq

    with Groq(base_url=f"{base}/groq", api_key=token) as client:
        found = client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=stream)
        return list(found) if stream else found


def mistral(base: str, token: str, stream: bool) -> Any:
    from mistralai.client import Mistral

    with Mistral(server_url=f"{base}/mistral", api_key=token) as client:
        if stream:
            return list(client.chat.stream(model=MODEL, messages=MESSAGES))
        return client.chat.complete(model=MODEL, messages=MESSAGES)


def cohere(base: str, token: str, stream: bool) -> Any:
    import cohere

    client = cohere.ClientV2(token, base_url=f"{base}/cohere")
    if stream:
        return [event.type for event in client.chat_stream(model=MODEL, messages=MESSAGES)]
    return client.chat(model=MODEL, messages=MESSAGES)


def litellm(base: str, token: str, stream: bool) -> Any:
    import litellm

    call = {"model": f"openai/{MODEL}", "messages": MESSAGES, "api_base": f"{base}/openai", "api_key": token}
    found = litellm.completion(**call, stream=stream)
    return list(found) if stream else found


def langchain_openai(base: str, token: str, stream: bool) -> Any:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model=MODEL, base_url=f"{base}/openai", api_key=token, stream_usage=True)
    return list(model.stream("Hello")) if stream else model.invoke("Hello")


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    request = json.load(sys.stdin)
    client = globals()[request["client"]]
    print(json.dumps({name: observed(client, name, where) for name, where in request["situations"].items()}))


def observed(client: Any, situation: str, where: dict[str, str]) -> dict[str, Any]:
    began = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            found = client(where["base"], where["token"], stream=situation == "cut stream")
            shown = f"no error: {found!r}"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the user sees
            shown = f"{type(error).__name__}: {error}"
    return {"seconds": round(time.monotonic() - began, 1), "shown": shown}


if __name__ == "__main__":
    main()
