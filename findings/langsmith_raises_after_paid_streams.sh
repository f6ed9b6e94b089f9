#!/usr/bin/env bash
# langsmith 0.15.1 (PyPI), with anthropic 2.16.0 and 0.125.0: what tracing does to a streamed message of Anthropic's.
# Guess: nothing that the program notices. `wrap_anthropic(client)` reads along, and a trace that cannot be made is logged, as one that
# cannot be sent is.
# Seen: with anthropic 2.16.0, a loop over the events of `client.messages.create(…, stream=True)` or `client.messages.stream(…)` raises
# TypeError after the last event, in the program's own code: the answer has been generated, delivered and billed, but what comes after
# the loop does not run, and what repeats a failed call buys the answer again. It raises where tracing is switched off, too, and
# where it is on, the run has no end and no usage. The package uses a private function of the SDK, which has taken one more argument
# since anthropic 2.0.0, and sets no bound on the SDK's version. With 0.125.0, and without a stream, all is well.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cat > "$tmp/run.py" <<'PYTHON'
import importlib.metadata
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anthropic
from langsmith import Client, wrappers
from langsmith.run_helpers import tracing_context

USAGE = {"input_tokens": 1_000, "output_tokens": 100}
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_sequence": None, "usage": USAGE}
TEXT = {"type": "text", "text": "Hello"}
ENDED = {"stop_reason": "end_turn", "stop_sequence": None}
EVENTS = [
    {"type": "message_start", "message": MESSAGE | {"content": [], "stop_reason": None}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": ENDED, "usage": USAGE},
    {"type": "message_stop"},
]


class Provider(BaseHTTPRequestHandler):
    def do_POST(self):
        streamed = json.loads(self.rfile.read(int(self.headers["content-length"]))).get("stream")
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if streamed else "application/json")
        self.end_headers()
        for event in EVENTS if streamed else ():
            self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        if not streamed:
            self.wfile.write(json.dumps(MESSAGE | {"content": [TEXT], "stop_reason": "end_turn"}).encode())

    def log_message(self, *_):
        pass


class Kept(Client):
    """A client that keeps the ends of runs instead of sending them."""

    ended = 0

    def create_run(self, *_, **__):
        pass

    def update_run(self, *_, **__):
        self.ended += 1


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
plain = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
kept = Kept(api_key="none", api_url=url, auto_batch_tracing=False, info={})
client = wrappers.wrap_anthropic(plain, tracing_extra={"client": kept})
ASKED = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}


def whole():
    client.messages.create(**ASKED)


def events():
    for event in client.messages.create(**ASKED, stream=True):
        delivered.append(event.type)


def helper():
    with client.messages.stream(**ASKED) as stream:
        delivered.extend(event.type for event in stream)


print(*(f"{name} {importlib.metadata.version(name)}" for name in ("langsmith", "anthropic")))
seen = []
for name, call, traced in (
    ("not streamed", whole, True),
    ("stream=True", events, True),
    ("messages.stream", helper, True),
    ("stream=True, tracing off", events, False),
):
    delivered, kept.ended, raised = [], 0, "nothing"
    try:
        with tracing_context(enabled=traced, client=kept):
            call()
    except TypeError as error:
        raised = f"TypeError: {error}"
    print(f"seen: {name}: last event {delivered[-1:]}, {kept.ended} runs ended, raised {raised}")
    seen.append((raised.split(":")[0], kept.ended))
right = [("nothing", 1), ("nothing", 1), ("nothing", 1), ("nothing", 0)]
wrong = [("nothing", 1), ("TypeError", 0), ("TypeError", 0), ("TypeError", 0)]
sys.exit(0 if seen == {"right": right, "wrong": wrong}[sys.argv[1]] else 1)
PYTHON
echo "expected: one run ended for each call that is traced, and nothing raised"
for version in 0.125.0 2.16.0; do
    python3 -m venv --clear "$tmp/env"
    "$tmp/env/bin/pip" --disable-pip-version-check -q install langsmith==0.15.1 "anthropic==$version"
    "$tmp/env/bin/python" "$tmp/run.py" "$([ "$version" = 2.16.0 ] && echo wrong || echo right)"
done
