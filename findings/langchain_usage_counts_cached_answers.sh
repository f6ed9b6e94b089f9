#!/usr/bin/env bash
# langchain 1.5.2 with langchain-openai 1.7.4 (PyPI): the tokens that `get_usage_metadata_callback` counts of answers from LangChain's cache.
# Guess: those of the one request that was sent. The cache is there to save the others, and each cached answer carries `total_cost: 0`.
# Seen: a cached answer counts like a new one: 30,000 tokens in and 3,000 out after three equal calls, one of which was sent, 10,000 and
# 1,000. The same with `UsageMetadataCallbackHandler` on the model. `total_cost: 0` does not help: it is in the sums
# as well, next to the tokens that were paid for. Costs or limits that go by these sums are the higher the better the cache works.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install langchain==1.5.2 langchain-core==1.8.3 langchain-openai==1.7.4
"$tmp/bin/python" - <<'PYTHON'
import importlib.metadata
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import UsageMetadataCallbackHandler, get_usage_metadata_callback
from langchain_openai import ChatOpenAI

USAGE = {"prompt_tokens": 10_000, "completion_tokens": 1_000, "total_tokens": 11_000}
requests = 0


class Provider(BaseHTTPRequestHandler):
    def do_POST(self):
        global requests
        requests += 1
        self.rfile.read(int(self.headers["content-length"]))
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
        answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": USAGE}
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()


def run(ask, cache, own_handler):
    """The requests that were sent, and the input and output tokens that were counted."""
    global requests
    requests = 0
    more = {"callbacks": [UsageMetadataCallbackHandler()]} if own_handler else {}
    url = f"http://127.0.0.1:{server.server_port}/v1"
    model = ChatOpenAI(model="m", api_key="none", base_url=url, cache=cache, max_retries=0, **more)
    with get_usage_metadata_callback() as around:
        for _ in range(3):
            ask(model)
    sums = (more["callbacks"][0] if own_handler else around).usage_metadata["m"]
    return requests, sums["input_tokens"], sums["output_tokens"]


def whole(model):
    model.invoke("Name a harbour")


print(*(f"{name} {importlib.metadata.version(name)}" for name in ("langchain", "langchain-core", "langchain-openai")))
print("expected: 10,000 tokens in and 1,000 out for each request that was sent")
seen = []
for name, cache, own in (("no cache", None, False), ("cache", InMemoryCache(), False), ("cache, own handler", InMemoryCache(), True)):
    sent, read, written = run(whole, cache, own)
    print(f"seen: three equal calls, {name}: {sent} sent, {read} tokens in, {written} out")
    seen.append((sent, read, written))
sys.exit(0 if seen == [(3, 30_000, 3_000), (1, 30_000, 3_000), (1, 30_000, 3_000)] else 1)
PYTHON
