#!/usr/bin/env bash
# cohere 7.3.1 (PyPI): what its client does with a chat stream that breaks off, and with a limit that cannot be waited for.
# Guess: a stream that ends without `message-end`, or with an event that reports an error, raises; and a 429 whose
# `x-should-retry` is false is not repeated, as with the SDKs of OpenAI, Anthropic and Groq.
# Seen: a stream that simply stops, one that ends with an event `error`, and one that ends with `message-end` and
# `finish_reason: "ERROR"` all end normally: half an answer looks like a whole one unless the caller checks the last event
# (an unknown event is only logged). Only a connection that breaks raises. A 429 is sent three times, and `Retry-After` is
# slept through between them, whatever `x-should-retry` says.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install cohere==7.3.1
"$tmp/bin/python" - <<'PYTHON'
import http.server
import importlib.metadata
import json
import logging
import sys
import threading
import time
import warnings

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
import cohere

STARTED = [
    {"type": "message-start", "id": "1", "delta": {"message": {"role": "assistant", "content": []}}},
    {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "Half an"}}}},
]
ENDINGS = {
    "it stops": [],
    "event error": [{"type": "error", "message": "overloaded"}],
    "finish_reason ERROR": [{"type": "message-end", "id": "1", "delta": {"finish_reason": "ERROR", "usage": {}}}],
    "the connection breaks": None,
}
ending = ""
requests = []


class Provider(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        requests.append(time.monotonic())
        if not body.get("stream"):
            self.send_response(429)
            for name, value in {"retry-after": "2", "x-should-retry": "false", "content-length": "2"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"{}")
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in STARTED + (ENDINGS[ending] or []):
            text = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
        if ENDINGS[ending] is None:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = cohere.ClientV2("key", base_url=f"http://127.0.0.1:{server.server_port}")
ask = {"model": "command-a", "messages": [{"role": "user", "content": "Hello"}]}
print("cohere", importlib.metadata.version("cohere"))
raised = {}
for ending in ENDINGS:
    try:
        text = "".join(e.delta.message.content.text for e in client.chat_stream(**ask) if e.type == "content-delta")
        raised[ending] = False
        print(f"{ending}: no error, text {text!r}")
    except Exception as error:
        raised[ending] = True
        print(f"{ending}: {type(error).__name__}")
requests.clear()
try:
    client.chat(**ask)
except cohere.TooManyRequestsError:
    waits = [round(after - before, 1) for before, after in zip(requests, requests[1:])]
    print(f"429 with Retry-After: 2 and x-should-retry: false: {len(requests)} requests, waits {waits} s")
silent = [name for name in ENDINGS if not raised[name]]
sys.exit(0 if silent == list(ENDINGS)[:3] and len(requests) == 3 and min(waits) >= 2 else 1)
PYTHON
