#!/usr/bin/env bash
# langgraph 1.2.24 (PyPI), with httpx 0.28.1, requests 2.34.2 and openai 2.54.0: which refusals `RetryPolicy()` of a node repeats.
# Guess: none. Its documentation says that it repeats what requests and httpx raise for 5xx alone, and 402 is a refusal for want of money.
# Seen: so it is with httpx. With requests a 402, like any other 4xx, is repeated: its status is looked at only `if exc.response`, and a
# response of requests with an error status is false. With OpenAI's SDK, whose exceptions are of neither, 402, 400 and 401 are repeated.
# A retry runs the whole node: its first call, which was answered and paid for, is made and paid for three times.
# `RetryPolicy(retry_on=…)` with a function of one's own prevents it. Its pauses are shortened here.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install langgraph==1.2.24 httpx==0.28.1 requests==2.34.2 openai==2.54.0
"$tmp/bin/python" - <<'PYTHON'
import importlib.metadata
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypedDict

import httpx
import openai
import requests
from langgraph.graph import END, START, StateGraph
from langgraph.types import RetryPolicy

ANSWER = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10_000, "completion_tokens": 1_000, "total_tokens": 11_000},
}
status = paid = refused = 0


class Provider(BaseHTTPRequestHandler):
    def do_POST(self):
        global paid, refused
        question = json.loads(self.rfile.read(int(self.headers["content-length"])))["messages"][0]["content"]
        if question == "first":
            paid += 1
        else:
            refused += 1
        self.send_response(200 if question == "first" else status)
        self.send_header("content-type", "application/json")
        self.end_headers()
        error = {"error": {"message": "no credit left", "type": "no_credit", "code": "no_credit", "param": None}}
        self.wfile.write(json.dumps(ANSWER if question == "first" else error).encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{server.server_port}/v1"


def body(question):
    return {"model": "m", "messages": [{"role": "user", "content": question}]}


asks = {
    "httpx": lambda question: httpx.post(f"{base}/chat/completions", json=body(question)).raise_for_status(),
    "requests": lambda question: requests.post(f"{base}/chat/completions", json=body(question)).raise_for_status(),
    "openai": lambda question: openai.OpenAI(base_url=base, api_key="none").chat.completions.create(**body(question)),
}


class State(TypedDict):
    done: bool


def run(ask):
    """The answers that were paid for, and the refusals, until the graph raises."""
    global paid, refused
    paid = refused = 0

    def node(state):
        ask("first")
        ask("second")
        return {"done": True}

    graph = StateGraph(State)
    graph.add_node("node", node, retry_policy=RetryPolicy(initial_interval=0.01, jitter=False))
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    try:
        graph.compile().invoke({"done": False})
    except Exception:
        return paid, refused
    return "no error"


print(*(f"{name} {importlib.metadata.version(name)}" for name in ("langgraph", *asks)))
print("expected: one answer paid for and one refusal, whatever the client")
seen = {}
for status in (400, 402):
    for name, ask in asks.items():
        seen[status, name] = run(ask)
        print(f"seen: {status}, {name}: (paid, refused) = {seen[status, name]}")
once, thrice = (1, 1), (3, 3)
sys.exit(0 if list(seen.values()) == [once, thrice, thrice] * 2 else 1)
PYTHON
