#!/usr/bin/env bash
# opentelemetry-instrumentation-anthropic 0.62.4 (PyPI), with anthropic 2.15.0: `gen_ai.usage.output_tokens` of a streamed message.
# Guess: 12, as in the last event: the API documents the usage of `message_delta` as cumulative, so that it includes what
# `message_start` said (3). So it is in the message that the SDK's own stream helper returns, and if the call is not streamed.
# Seen: 15. The figures of the two events are added, for `create(stream=True)` and `messages.stream` alike: each streamed message counts
# the tokens of its first event twice, by which short answers come out too expensive. A stream with two `message_delta`, which the
# API allows for, has all three added (19). openinference-instrumentation-anthropic 3.1.0 states 12 each time.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install anthropic==2.15.0 opentelemetry-sdk \
    opentelemetry-instrumentation-anthropic==0.62.4 openinference-instrumentation-anthropic==3.1.0
cat > "$tmp/run.py" <<'PYTHON'
import http.server
import importlib.metadata
import json
import logging
import sys
import threading
import warnings

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
import anthropic
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

MESSAGE = {"id": "m", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "stop_sequence": None}
TEXT = {"type": "text", "text": "Lundby"}


def usage(output):
    return {"input_tokens": 1_000, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": output}


def events(twice):
    yield {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None, "usage": usage(3)}}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Lundby"}}
    yield {"type": "content_block_stop", "index": 0}
    if twice:
        yield {"type": "message_delta", "delta": {"stop_reason": None, "stop_sequence": None}, "usage": {"output_tokens": 4}}
    yield {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 12}}
    yield {"type": "message_stop"}


class Anthropic(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        stream = body.get("stream", False)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if stream else "application/json")
        self.end_headers()
        if not stream:
            answer = json.dumps({**MESSAGE, "content": [TEXT], "stop_reason": "end_turn", "usage": usage(12)})
        else:
            twice = self.path.startswith("/twice")
            answer = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events(twice))
        self.wfile.write(answer.encode())

    def log_message(self, *_):
        pass


if sys.argv[1] == "openinference":
    from openinference.instrumentation.anthropic import AnthropicInstrumentor

    package, output = "openinference-instrumentation-anthropic", "llm.token_count.completion"
else:
    from opentelemetry.instrumentation.anthropic import AnthropicInstrumentor

    package, output = "opentelemetry-instrumentation-anthropic", "gen_ai.usage.output_tokens"
spans, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
AnthropicInstrumentor().instrument(tracer_provider=provider)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Anthropic)
threading.Thread(target=server.serve_forever, daemon=True).start()
question = {"model": "claude-sonnet-4-5", "max_tokens": 50, "messages": [{"role": "user", "content": "Name a harbour"}]}


def client(path):
    return anthropic.Anthropic(api_key="none", base_url=f"http://127.0.0.1:{server.server_port}/{path}", max_retries=0).messages


def helped(path):
    with client(path).stream(**question) as stream:
        return stream.get_final_message().usage.output_tokens


client("once").create(**question)
list(client("once").create(stream=True, **question))
by_sdk = helped("once"), helped("twice")
seen = [span.attributes[output] for span in spans.get_finished_spans()]
print(package, importlib.metadata.version(package), "with anthropic", importlib.metadata.version("anthropic"))
print(f"expected: 12 each time, as the SDK's helper says: {by_sdk}; seen: {seen}")
print("(not streamed; create(stream=True); messages.stream; messages.stream with two message_delta)")
expected = [12, 12, 12, 12] if sys.argv[1] == "openinference" else [12, 15, 15, 19]
sys.exit(0 if by_sdk == (12, 12) and seen == expected else 1)
PYTHON
"$tmp/bin/python" "$tmp/run.py" opentelemetry
"$tmp/bin/python" "$tmp/run.py" openinference
