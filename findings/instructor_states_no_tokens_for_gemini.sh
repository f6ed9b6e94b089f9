#!/usr/bin/env bash
# instructor 1.17.0 (PyPI) with google-genai 3.6.1 and openai 2.54.0: the tokens that it states if it had to ask again for a valid object.
# Guess: those of all requests, whichever API: it adds up the usage of OpenAI's and Anthropic's answers, in the response and in
# `total_usage` of InstructorRetryException, since rejected answers are billed like others.
# Seen: with OpenAI's it does. With Gemini's the response states its own tokens alone (1,100 of 3,300), and `total_usage` of the exception
# is 0 after four requests that were billed, 4,400 tokens. Neither raises nor warns. This holds for both of its modes for
# google-genai (functions and structured outputs).
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install "instructor==1.17.0" google-genai==3.6.1 openai==2.54.0 jsonref
"$tmp/bin/python" -W ignore - <<'PYTHON'
import importlib.metadata
import json
import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import instructor
import instructor.core.exceptions
import openai
from google import genai
from pydantic import BaseModel

logging.disable(logging.CRITICAL)
answers = []


class Harbour(BaseModel):
    depth: int


def of_openai(value):
    usage = {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100}
    message = {"role": "assistant", "content": json.dumps(value)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def of_google(value, function):
    usage = {"promptTokenCount": 1_000, "candidatesTokenCount": 100, "totalTokenCount": 1_100}
    part = {"functionCall": {"name": "Harbour", "args": value}} if function else {"text": json.dumps(value)}
    candidate = {"index": 0, "content": {"role": "model", "parts": [part]}, "finishReason": "STOP"}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "m", "responseId": "r"}


class Provider(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        google = "generateContent" in self.path
        value = answers.pop(0)
        answer = json.dumps(of_google(value, "tools" in asked) if google else of_openai(value)).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
google = genai.Client(api_key="none", http_options={"base_url": url})
clients = {
    "OpenAI's": instructor.from_openai(openai.OpenAI(base_url=url, api_key="none"), mode=instructor.Mode.JSON),
    "Gemini's functions": instructor.from_genai(google, mode=instructor.Mode.GENAI_TOOLS),
    "Gemini's structured output": instructor.from_genai(google, mode=instructor.Mode.GENAI_STRUCTURED_OUTPUTS),
}
asked = {"model": "m", "response_model": Harbour, "messages": [{"role": "user", "content": "How deep?"}], "max_retries": 3}


def stated(client, *given):
    """The requests that were sent, and the tokens that instructor states of them."""
    answers[:] = given
    try:
        _, response = client.chat.completions.create_with_completion(**asked)
    except instructor.core.exceptions.InstructorRetryException as error:
        return len(given) - len(answers), error.total_usage.total_tokens
    usage = response.usage_metadata.total_token_count if hasattr(response, "usage_metadata") else response.usage.total_tokens
    return len(given) - len(answers), usage


print(*(f"{name} {importlib.metadata.version(name)}" for name in ("instructor", "google-genai", "openai")))
print("expected: 1,100 tokens for each request that was sent")
BAD, GOOD = {"depth": "deep"}, {"depth": 12}
seen = []
for name, client in clients.items():
    seen.append((stated(client, BAD, BAD, GOOD), stated(client, *[BAD] * 9)))
    (sent, tokens), (failed, of_failed) = seen[-1]
    print(f"seen: {name}: {sent} requests, {tokens} tokens in the response; {failed} failed, {of_failed} in the exception")
right, wrong = ((3, 3_300), (4, 4_400)), ((3, 1_100), (4, 0))
sys.exit(0 if seen == [right, wrong, wrong] else 1)
PYTHON
