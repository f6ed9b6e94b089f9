#!/usr/bin/env bash
# litellm 1.110.2 (PyPI): what `litellm.max_budget`, "the max budget across all providers", lets a program spend.
# Guess: after the first response that takes the cost above it, the next call raises BudgetExceededError: that exception is checked for
# before every call, and LiteLLM knows what each response costs (`response_cost`).
# Seen: nothing raises. With a budget of 0.02 USD and calls of 0.0135 each, six calls of each kind go out (plain, streamed, async,
# the Responses API), 0.08 USD; the sum that is compared with the budget stays 0, because it is increased only for a result that is a
# `dict` with a key `content`, which no response is. With that sum set by hand, the exception comes before the request, as intended.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install litellm==1.110.2
LITELLM_LOCAL_MODEL_COST_MAP=True "$tmp/bin/python" - <<'PYTHON'
import asyncio
import importlib.metadata
import json
import logging
import sys
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
import litellm

CALLS, BUDGET = 6, 0.02
CHAT_USAGE = {"prompt_tokens": 2_800, "completion_tokens": 1_000, "total_tokens": 3_800}
USAGE = {"input_tokens": 2_800, "output_tokens": 1_000, "total_tokens": 3_800, "input_tokens_details": {"cached_tokens": 0}}
CHAT = {"id": "c", "created": 1, "model": "gpt-5.1"}
requests = 0


def answer(path: str, body: dict) -> bytes:
    if path.endswith("/responses"):
        said = {"type": "output_text", "text": "Hello", "annotations": []}
        item = {"type": "message", "id": "m", "status": "completed", "role": "assistant", "content": [said]}
        whole = {"id": "r", "object": "response", "created_at": 1, "status": "completed", "model": "gpt-5.1"}
        return json.dumps({**whole, "output": [item], "usage": {**USAGE, "output_tokens_details": {"reasoning_tokens": 0}}}).encode()
    if not body.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
        return json.dumps({**CHAT, "object": "chat.completion", "choices": [choice], "usage": CHAT_USAGE}).encode()
    chunks = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hello"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": CHAT_USAGE},
    ]
    events = [{**CHAT, "object": "chat.completion.chunk", **chunk} for chunk in chunks]
    return b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n"


class Provider(BaseHTTPRequestHandler):
    def do_POST(self):
        global requests
        requests += 1
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if body.get("stream") else "application/json")
        self.end_headers()
        self.wfile.write(answer(self.path, body))

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
where = {"api_key": "none", "api_base": f"http://127.0.0.1:{server.server_port}/v1", "num_retries": 0}
question = {"model": "openai/gpt-5.1", "messages": [{"role": "user", "content": "Say hello"}], **where}
streamed = {"stream": True, "stream_options": {"include_usage": True}}


async def asynchronously() -> None:
    await litellm.acompletion(**question)
    await asyncio.sleep(0.1)  # its callbacks run after it


ways = {
    "completion": lambda: litellm.completion(**question),
    "completion, streamed": lambda: list(litellm.completion(**question, **streamed)),
    "acompletion": lambda: asyncio.run(asynchronously()),
    "responses": lambda: litellm.responses(model="openai/gpt-5.1", input="Say hello", **where),
}
cost = litellm.completion(**question)._hidden_params["response_cost"]
print("litellm", importlib.metadata.version("litellm"))
print(f"a call costs {cost:.4f} USD; expected: 2 calls within a budget of {BUDGET}, then BudgetExceededError")
seen = []
for name, call in ways.items():
    litellm.max_budget, litellm._current_cost, requests = BUDGET, 0.0, 0
    ended = "no error"
    for _ in range(CALLS):
        try:
            call()
        except litellm.BudgetExceededError:
            ended = "BudgetExceededError"
            break
        time.sleep(0.2)  # what is done after a response runs on a thread
    print(f"seen: {name}: {requests} calls, {ended}; the sum compared with the budget is {litellm._current_cost}")
    seen.append((requests, ended, litellm._current_cost))
litellm._current_cost, requests = CALLS * cost, 0
try:
    litellm.completion(**question)
    refused = False
except litellm.BudgetExceededError:
    refused = requests == 0
print(f"with the sum set by hand to {litellm._current_cost:.3f}: {'BudgetExceededError, and no request' if refused else 'a call'}")
sys.exit(0 if refused and round(cost, 4) == 0.0135 and seen == [(CALLS, "no error", 0.0)] * len(ways) else 1)
PYTHON
