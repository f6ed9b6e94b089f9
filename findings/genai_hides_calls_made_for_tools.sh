#!/usr/bin/env bash
# google-genai 3.6.1 (PyPI): the usage that a response states if the SDK itself called Python functions for the model.
# Guess: the tokens of all requests that were made for it, or a list of them: `generate_content` with functions as tools returns one
# response, and the functions are called, and the model is asked again, without the caller seeing it.
# Seen: those of the last request. Here four requests read 10,000 tokens, all of them billed; `usage_metadata` says 4,000 in and
# 10 out of 40, as do `chats.send_message` and the last chunk of a stream. `automatic_function_calling_history` has the messages,
# and no usage. A cost computed from the response leaves out up to nine calls (`maximum_remote_calls` is 10).
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install google-genai==3.6.1
"$tmp/bin/python" - <<'PYTHON'
import http.server
import importlib.metadata
import json
import sys
import threading

from google import genai
from google.genai import types

MODEL = "gemini-2.5-flash"
billed = []


class Google(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        turns = sum(content["role"] == "model" for content in asked["contents"])
        part = {"functionCall": {"name": "population", "args": {"city": "Oslo"}}} if turns < 3 else {"text": "Done."}
        tokens = 1000 * (turns + 1)
        billed.append(tokens)
        usage = {"promptTokenCount": tokens, "candidatesTokenCount": 10, "totalTokenCount": tokens + 10}
        candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
        body = json.dumps({"candidates": [candidate], "usageMetadata": usage, "modelVersion": MODEL})
        streamed = ":streamGenerateContent" in self.path
        encoded = (f"data: {body}\r\n\r\n" if streamed else body).encode()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if streamed else "application/json")
        self.send_header("content-length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, *_):
        pass


def population(city: str) -> int:
    """How many people live in a city."""
    return 700_000


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Google)
threading.Thread(target=server.serve_forever, daemon=True).start()
options = types.HttpOptions(base_url=f"http://127.0.0.1:{server.server_port}")
client = genai.Client(api_key="none", http_options=options)
config = types.GenerateContentConfig(tools=[population])


def last_of_stream():
    return list(client.models.generate_content_stream(model=MODEL, contents="Compare", config=config))[-1]


ways = {
    "generate_content": lambda: client.models.generate_content(model=MODEL, contents="Compare", config=config),
    "chats.send_message": lambda: client.chats.create(model=MODEL, config=config).send_message("Compare"),
    "generate_content_stream": last_of_stream,
}
print("google-genai", importlib.metadata.version("google-genai"))
seen = []
for name, ask in ways.items():
    billed.clear()
    usage = ask().usage_metadata
    seen.append((len(billed), sum(billed), usage.prompt_token_count, usage.candidates_token_count))
    print("%s: %d requests, %d tokens in, 40 out; the response states %d in, %d out" % (name, *seen[-1]))
sys.exit(0 if seen == [(4, 10_000, 4_000, 10)] * 3 else 1)
PYTHON
