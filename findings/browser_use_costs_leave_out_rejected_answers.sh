#!/usr/bin/env bash
# browser-use 0.13.14 (PyPI): which requests its usage and costs include, and how often it sends them, if an answer is not an object of the
# schema (here the model answers in prose).
# Guess: each request of 1,000 tokens in and 100 out counts: rejected answers are billed like others. Whoever asks again does so with the
# error, as its agent does in its next step; the same request is not sent again at once, as nothing about it was temporary.
# Seen: rejected answers are left out, since only what a call returns is counted, and it raises. `ChatGoogle` sends each such request five times,
# which are all billed: it raises an exception of its own with the status 500, and repeats that as if the API had sent it.
# `max_retries=1` sends it once; it is left out all the same.
# Shown with the service with which an agent registers its models (`history.usage` is its summary), without a browser; the pauses
# between the five are shortened here.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install browser-use==0.13.14 openai==3.57.0 anthropic==1.17.0 google-genai==1.65.0
cd "$tmp"
HOME=$tmp ANONYMIZED_TELEMETRY=false "$tmp/bin/python" -W ignore - <<'PYTHON'
import asyncio
import importlib.metadata
import json
import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pydantic
from browser_use import ChatAnthropic, ChatGoogle, ChatOpenAI
from browser_use.llm.messages import UserMessage
from browser_use.tokens.service import TokenCost

logging.disable(logging.CRITICAL)
VALID = '{"degrees": 20}'
answers, requests = [], 0


class Weather(pydantic.BaseModel):
    degrees: int


def openai(given):
    choice = {"index": 0, "message": {"role": "assistant", "content": given}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def anthropic(given):
    valid = given == VALID
    use = {"type": "tool_use", "id": "toolu_1", "name": "Weather", "input": json.loads(VALID)}
    content = [use if valid else {"type": "text", "text": given}]
    answer = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": content}
    usage = {"input_tokens": 1_000, "output_tokens": 100}
    return answer | {"stop_reason": "tool_use" if valid else "end_turn", "stop_sequence": None, "usage": usage}


def gemini(given):
    content = {"role": "model", "parts": [{"text": given}]}
    usage = {"promptTokenCount": 1_000, "candidatesTokenCount": 100, "totalTokenCount": 1_100}
    return {"candidates": [{"index": 0, "content": content, "finishReason": "STOP"}], "usageMetadata": usage}


class Provider(BaseHTTPRequestHandler):
    def do_POST(self):
        global requests
        requests += 1
        self.rfile.read(int(self.headers["content-length"]))
        forms = {"completions": openai, "messages": anthropic, "generateContent": gemini}
        answer = next(form for end, form in forms.items() if end in self.path)(answers[-1])
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
at = f"http://127.0.0.1:{server.server_port}"


async def ask(model):
    """The requests sent, and those that the usage has, for an answer of the schema and for one that is not."""
    global requests
    service = TokenCost()
    service.register_llm(model)
    seen = []
    for given in (VALID, "It is about twenty degrees."):
        requests = 0
        before = (await service.get_usage_summary()).total_tokens
        answers.append(given)
        try:
            await model.ainvoke([UserMessage(content="The weather?")], Weather)
        except Exception as error:  # whatever class it is, the call failed
            seen.append(type(error).__name__)
        after = (await service.get_usage_summary()).total_tokens
        seen.append((requests, (after - before) // 1_100))
    return seen


async def main():
    google = {"api_key": "none", "http_options": {"base_url": at}}
    models = {
        "ChatOpenAI": ChatOpenAI(model="gpt-4o", base_url=f"{at}/v1", api_key="none"),
        "ChatAnthropic": ChatAnthropic(model="claude-sonnet-4-5", base_url=at, api_key="none"),
        "ChatGoogle": ChatGoogle(model="gemini-2.5-flash", retry_base_delay=0.01, **google),
        "ChatGoogle, max_retries=1": ChatGoogle(model="gemini-2.5-flash", max_retries=1, **google),
    }
    return {name: await ask(model) for name, model in models.items()}


print(*(f"{name} {importlib.metadata.version(name)}" for name in ("browser-use", "openai", "anthropic", "google-genai")))
print("expected: (1, 1) for a valid answer and for a rejected one: a request, and a request counted")
seen = asyncio.run(main())
for name, (valid, error, rejected) in seen.items():
    print(f"seen: {name}: valid {valid}; rejected {rejected}, {error}")
once, often = [(1, 1), "ModelProviderError", (1, 0)], [(1, 1), "ModelProviderError", (5, 0)]
sys.exit(0 if list(seen.values()) == [once, once, often, once] else 1)
PYTHON
