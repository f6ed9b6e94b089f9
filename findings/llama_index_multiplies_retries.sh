#!/usr/bin/env bash
# llama-index-llms-openai 0.8.3 and llama-index-embeddings-openai 0.7.0 (PyPI), with openai 2.54.0: how many requests one call sends.
# Guess: `max_retries` ("the maximum number of API retries", 3 for models, 10 for embeddings) means four and eleven requests at most.
# Seen: the number goes to OpenAI's SDK, which repeats by itself, and around that to a second loop, for which it is the number of
# attempts: `complete` sends 12 requests (3 times 4), `get_text_embedding` 110 (10 times 11). They do so if a server is busy, and also if
# it answers more slowly than in the default 60 seconds, which models that reason often do: the answer is generated and billed 12 times,
# and the caller gets an exception. `stream_complete` has only the inner loop. `max_retries=0` sends one request; a longer
# `timeout` besides lets a slow answer arrive. The server here takes two seconds for a slow answer, `timeout` is half a second, and the pauses are skipped.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install llama-index-llms-openai==0.8.3 llama-index-embeddings-openai==0.7.0 openai==2.54.0
"$tmp/bin/python" - <<'PYTHON'
import importlib.metadata
import json
import logging
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI

logging.disable(logging.CRITICAL)
pause = time.sleep
time.sleep = lambda seconds: None
busy = json.dumps({"error": {"message": "busy", "type": "server_error", "code": None, "param": None}}).encode()
choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
chat = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
vectors = {"object": "list", "model": "m", "data": [vector], "usage": {"prompt_tokens": 1, "total_tokens": 1}}
served = {}


class Provider(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        case = self.path.split("/")[1]
        served[case] = served.get(case, 0) + 1
        if case.startswith("slow"):
            pause(2)
        done = not case.startswith("busy")
        try:
            self.send_response(200 if done else 503)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(vectors if "embeddings" in self.path else chat).encode() if done else busy)
        except OSError:
            pass  # the client no longer waits

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()


def where(case, **more):
    return {"api_key": "none", "api_base": f"http://127.0.0.1:{server.server_port}/{case}/v1", "reuse_client": False, **more}


def complete(case, **more):
    OpenAI(model="gpt-4o", **where(case, **more)).complete("x")


def stream(case, **more):
    list(OpenAI(model="gpt-4o", **where(case, **more)).stream_complete("x"))


def embed(case, **more):
    OpenAIEmbedding(**where(case, **more)).get_text_embedding("x")


cases = [
    ("well-chat", complete, {}, 1, 1),
    ("well-embedding", embed, {}, 1, 1),
    ("busy-chat", complete, {}, 4, 12),
    ("busy-stream", stream, {}, 4, 4),
    ("busy-embedding", embed, {}, 11, 110),
    ("busy-chat-1", complete, {"max_retries": 1}, 2, 2),
    ("busy-chat-0", complete, {"max_retries": 0}, 1, 1),
    ("slow-chat", complete, {"timeout": 0.5}, 4, 12),
    ("slow-chat-0", complete, {"timeout": 0.5, "max_retries": 0}, 1, 1),
]
for name in ("llama-index-llms-openai", "llama-index-embeddings-openai", "openai"):
    print(name, importlib.metadata.version(name))
as_seen = True
for case, call, more, expected, seen in cases:
    try:
        call(case, **more)
        ended = "an answer"
    except Exception as error:
        ended = type(error).__name__
    print(f"{case} {more or ''}: expected {expected} requests at most, seen {served[case]}, then {ended}")
    as_seen = as_seen and served[case] == seen and (ended == "an answer") == case.startswith("well")
print("default timeouts:", OpenAI(model="gpt-4o", api_key="none").timeout, OpenAIEmbedding(api_key="none").timeout)
sys.exit(0 if as_seen and OpenAI(model="gpt-4o", api_key="none").timeout == 60 else 1)
PYTHON
