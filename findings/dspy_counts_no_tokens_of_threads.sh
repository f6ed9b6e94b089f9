#!/usr/bin/env bash
# dspy 3.4.1 with litellm 1.110.2 (PyPI): the tokens that `dspy.track_usage()` counts, and the costs in a model's `history`.
# Guess: all tokens of the requests that were sent within the block, however they were started; and a cost for each of these requests.
# Seen: requests that run in DSPy's own threads are not counted: four requests by `dspy.Parallel`, `Module.batch` or `dspy.Evaluate` are no tokens
# at all, the same four in a loop 4,400. `get_lm_usage()` of a module that uses them, with `track_usage=True`, is empty as well. No
# warning says so. In `history`, which others take for the bill, an answer from DSPy's cache has no usage, but the whole cost again: three
# equal calls, one of which was sent, cost three times what was billed.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install dspy==3.4.1 litellm==1.110.2
LITELLM_LOCAL_MODEL_COST_MAP=True DSPY_CACHEDIR="$tmp/cache" "$tmp/bin/python" -W ignore - <<'PYTHON'
import importlib.metadata
import json
import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dspy

logging.disable(logging.CRITICAL)
USAGE = {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100}
requests = []


class Provider(BaseHTTPRequestHandler):
    def do_POST(self):
        requests.append(self.path)
        self.rfile.read(int(self.headers["content-length"]))
        message = {"role": "assistant", "content": "[[ ## answer ## ]]\nParis\n\n[[ ## completed ## ]]"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": USAGE}
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
model = dspy.LM("openai/gpt-4.1", api_key="none", api_base=f"http://127.0.0.1:{server.server_port}/v1")
dspy.configure(lm=model, track_usage=True)
dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
predict = dspy.Predict("question -> answer")


class Four(dspy.Module):
    def forward(self, question):
        return dspy.Prediction(answers=parallel(question))


def examples(topic):
    return [dspy.Example(question=f"{topic} {number}?", answer="Paris").with_inputs("question") for number in range(4)]


def loop(topic):
    return [predict(question=example.question) for example in examples(topic)]


def parallel(topic):
    pairs = [(predict, {"question": example.question}) for example in examples(topic)]
    return dspy.Parallel(num_threads=2, disable_progress_bar=True)(pairs)


def batch(topic):
    return predict.batch(examples(topic), num_threads=2)


def evaluate(topic):
    return dspy.Evaluate(devset=examples(topic), metric=lambda *_: 1.0, num_threads=2, display_progress=False)(predict)


def total(usage):
    return sum(of_model["total_tokens"] for of_model in usage.values())


print(*(f"{name} {importlib.metadata.version(name)}" for name in ("dspy", "litellm")))
print("expected: 1,100 tokens for each request that was sent, and a cost for one of three equal calls")
seen = []
for ways in (loop, parallel, batch, evaluate):
    requests.clear()
    with dspy.track_usage() as tracker:
        ways(ways.__name__)
    seen.append((len(requests), total(tracker.get_total_tokens())))
    print(f"seen: {ways.__name__}: {seen[-1][0]} requests, {seen[-1][1]} tokens")
requests.clear()
usage = Four()(question="module").get_lm_usage() or {}
seen.append((len(requests), total(usage)))
print(f"seen: a module with dspy.Parallel: {len(requests)} requests, {seen[-1][1]} tokens")
requests.clear()
before = len(model.history)
for _ in range(3):
    predict(question="Again?")
costs = [round(entry["cost"] or 0, 6) for entry in model.history[before:]]
print(f"seen: three equal calls: {len(requests)} sent; costs {costs}")
expected = [(4, 4_400), (4, 0), (4, 0), (4, 0), (4, 0)]
sys.exit(0 if seen == expected and len(requests) == 1 and costs == [0.0028] * 3 else 1)
PYTHON
