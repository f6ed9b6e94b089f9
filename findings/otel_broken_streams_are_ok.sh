#!/usr/bin/env bash
# opentelemetry-instrumentation-openai 0.62.4 (PyPI), with openai 3.57.0: the status of spans of chat streams that fail.
# Guess: a call that raises is a span with status ERROR and `error.type` (OpenTelemetry's conventions for generative AI ask for
# it if the operation ended in an error), as it is when the API refuses it. A stream that breaks off raises as well.
# Seen: it is OK, with no `error.type`, as long as the first event came: where the connection ended, and where the stream
# reported an error by an event. Both raise in the caller's code. Dashboards and alarms that count errors by spans do not see
# that a provider, or a proxy in between, breaks streams off.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install openai==3.57.0 opentelemetry-sdk==1.45.2 opentelemetry-instrumentation-openai==0.62.4
"$tmp/bin/python" - <<'PYTHON'
import http.server
import importlib.metadata
import json
import sys
import threading

import openai
from opentelemetry.instrumentation.openai import OpenAIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
HALF = {**CHUNK, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Half an"}, "finish_reason": None}]}
STOP = {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
ERROR = {"error": {"message": "overloaded", "type": "server_error"}}
STREAMS = {"a whole answer": [HALF, STOP], "an event with an error": [HALF, ERROR], "the connection ends": [HALF, None], "402": None}
name = ""


class OpenAI(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        if STREAMS[name] is None:
            self.send_response(402)
            self.send_header("content-length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in STREAMS[name]:
            if event is None:
                self.close_connection = True
                return
            text = f"data: {json.dumps(event)}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
        self.wfile.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), OpenAI)
threading.Thread(target=server.serve_forever, daemon=True).start()
spans, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
OpenAIInstrumentor().instrument(tracer_provider=provider)
client = openai.OpenAI(api_key="none", base_url=f"http://127.0.0.1:{server.server_port}", max_retries=0)
for package in ("openai", "opentelemetry-sdk", "opentelemetry-instrumentation-openai"):
    print(package, importlib.metadata.version(package))
print("expected: ERROR and an error.type wherever the caller gets an exception")
seen = {}
for name in STREAMS:
    try:
        list(client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hello"}], stream=True))
        raised = "nothing"
    except openai.APIError as error:
        raised = type(error).__name__
    (span,) = spans.get_finished_spans()
    spans.clear()
    seen[name] = raised != "nothing", span.status.status_code.name, "error.type" in span.attributes
    print(f"{name}: the caller gets {raised}; span {seen[name][1]}, error.type {span.attributes.get('error.type')}")
expected = [(False, "OK", False), (True, "OK", False), (True, "OK", False), (True, "ERROR", True)]
sys.exit(0 if list(seen.values()) == expected else 1)
PYTHON
