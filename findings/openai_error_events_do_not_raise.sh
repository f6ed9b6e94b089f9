#!/usr/bin/env bash
# openai 3.57.0 (PyPI): which event of a Responses stream raises in `for event in client.responses.create(stream=True)`.
# Guess: the two that the API documents for failures, `error` and `response.failed`, raise openai.APIError, or neither does.
# Seen: both are handed to the caller like any other event, and so is a stream that stops without `response.completed`: a loop
# that collects text deltas takes half an answer for a whole one. An event with a field `error`, which the documentation of
# Responses does not mention (it is how Chat Completions report it), raises APIError. An event `error` that has the field as
# well is both: it raises here, and readers that look at `type` find what is documented.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install openai==3.57.0
"$tmp/bin/python" - <<'PYTHON'
import http.server
import json
import sys
import threading

import openai

DELTA = {
    "type": "response.output_text.delta", "sequence_number": 1, "item_id": "i", "output_index": 0, "content_index": 0,
    "delta": "Half an", "logprobs": [],
}  # fmt: skip
FAILED = {"id": "r", "object": "response", "status": "failed", "error": {"code": "server_error", "message": "overloaded"}}
FLAT = {"type": "error", "sequence_number": 2, "code": "server_error", "message": "overloaded", "param": None}
ENDINGS = {
    "no end": [],
    "error": [FLAT],
    "response.failed": [{"type": "response.failed", "sequence_number": 2, "response": FAILED}],
    "field error": [{"error": {"message": "overloaded", "type": "server_error", "code": "server_error"}}],
    "error with the field": [FLAT | {"error": {"message": "overloaded", "type": "server_error", "code": "server_error"}}],
}
ending = ""


class Provider(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for event in [DELTA, *ENDINGS[ending]]:
            name = f"event: {event['type']}\n" if "type" in event else ""
            self.wfile.write(f"{name}data: {json.dumps(event)}\n\n".encode())

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(api_key="key", base_url=f"http://127.0.0.1:{server.server_port}", max_retries=0)
print("openai", openai.__version__)
raised = {}
for ending in ENDINGS:
    try:
        events = [event.type for event in client.responses.create(model="m", input="Hello", stream=True)]
        raised[ending] = False
        print(f"{ending}: no exception, events {events}")
    except openai.APIError as error:
        raised[ending] = True
        print(f"{ending}: APIError: {error}")
sys.exit(0 if [name for name in ENDINGS if raised[name]] == ["field error", "error with the field"] else 1)
PYTHON
