#!/usr/bin/env bash
# openinference-instrumentation-openai 0.1.66 and opentelemetry-instrumentation-openai 0.62.4 (PyPI), with openai 3.57.0: which
# tokens their spans state for one response of OpenAI's Responses API that is made in the background.
# Guess: 100 tokens in and 50 out, once: that is what is billed. Reading a stored response is free, however often.
# Seen: openinference writes a span of its own for every `responses.retrieve`, with the whole usage each time: for a client that
# polls, or reads a finished response again, it is counted as often (here three times: 450 tokens). The other writes its spans while the
# response is still being made, and so states no tokens at all. A response that is not made in the background and never read
# again is counted right by both. Costs that are added up from such spans are wrong either way.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install openai==3.57.0 opentelemetry-sdk==1.45.2 \
    openinference-instrumentation-openai==0.1.66 opentelemetry-instrumentation-openai==0.62.4
cat > "$tmp/count.py" <<'PYTHON'
import http.server
import importlib
import json
import sys
import threading

import openai
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

package, module, names, *expected = sys.argv[1:]
DETAILS = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
USAGE = {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150, **DETAILS}
RESPONSE = {
    "object": "response", "created_at": 1, "model": "gpt-5", "output": [], "parallel_tool_calls": True,
    "tool_choice": "auto", "tools": [],
}  # fmt: skip
polls = 0


class OpenAI(http.server.BaseHTTPRequestHandler):
    def answer(self, response):
        body = json.dumps(RESPONSE | response).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        waits = asked.get("background", False)
        self.answer({"id": f"resp_{waits}", "status": "queued"} if waits else {"id": "resp_0", "status": "completed", "usage": USAGE})

    def do_GET(self):
        global polls
        polls += 1
        done = {"status": "completed", "usage": USAGE} if polls > 2 else {"status": "in_progress"}
        self.answer({"id": self.path.rpartition("/")[2]} | done)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), OpenAI)
threading.Thread(target=server.serve_forever, daemon=True).start()
spans, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
importlib.import_module(module).OpenAIInstrumentor().instrument(tracer_provider=provider)
client = openai.OpenAI(api_key="none", base_url=f"http://127.0.0.1:{server.server_port}")


def counted():
    stated = [span.attributes.get(name, 0) for span in spans.get_finished_spans() for name in names.split(",")]
    spans.clear()
    return sum(stated)


client.responses.create(model="gpt-5", input="Hello")
at_once = counted()
response = client.responses.create(model="gpt-5", input="Hello", background=True)
while response.status != "completed":
    response = client.responses.retrieve(response.id)
for _ in range(2):
    client.responses.retrieve(response.id)
background = counted()
print(f"{package}: made at once {at_once} tokens, in the background {background}")
sys.exit(0 if [str(at_once), str(background)] == expected else 1)
PYTHON
for package in openai opentelemetry-sdk openinference-instrumentation-openai opentelemetry-instrumentation-openai; do
    "$tmp/bin/python" -c "from importlib.metadata import version; print('$package', version('$package'))"
done
echo "expected: 150 tokens each"
"$tmp/bin/python" "$tmp/count.py" openinference-instrumentation-openai openinference.instrumentation.openai \
    llm.token_count.prompt,llm.token_count.completion 150 450
"$tmp/bin/python" "$tmp/count.py" opentelemetry-instrumentation-openai opentelemetry.instrumentation.openai \
    gen_ai.usage.input_tokens,gen_ai.usage.output_tokens 150 0
