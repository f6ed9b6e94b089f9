#!/usr/bin/env bash
# opentelemetry-instrumentation-google-generativeai 0.62.4 (PyPI), with google-genai 3.6.1: `gen_ai.usage.output_tokens` of a Gemini call
# that thinks.
# Guess: 1,000: 400 tokens of text and 600 of thoughts, which Google bills at the price of output ("including thinking tokens"). The
# instrumentation of the same project for OpenAI includes reasoning, and has an attribute for it besides.
# Seen: 400, in streams too, and no attribute has the other 600. Only `gen_ai.usage.total_tokens` (11,000) of the same span tells that
# input (10,000) and output do not add up. A cost computed from such spans leaves out most of the output of models that think.
# openinference-instrumentation-google-genai 1.4.14 states 1,000, of which 600 are reasoning.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install google-genai==3.6.1 opentelemetry-sdk \
    opentelemetry-instrumentation-google-generativeai==0.62.4 openinference-instrumentation-google-genai==1.4.14
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
from google import genai
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

USAGE = {"promptTokenCount": 10_000, "candidatesTokenCount": 400, "thoughtsTokenCount": 600, "totalTokenCount": 11_000}


class Gemini(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        said = {"content": {"parts": [{"text": "Hello"}], "role": "model"}, "finishReason": "STOP", "index": 0}
        answer = json.dumps({"candidates": [said], "usageMetadata": USAGE, "modelVersion": "gemini-2.5-flash"})
        stream = "stream" in self.path
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if stream else "application/json")
        self.end_headers()
        self.wfile.write((f"data: {answer}\r\n\r\n" if stream else answer).encode())

    def log_message(self, *_):
        pass


if sys.argv[1] == "openinference":
    from openinference.instrumentation.google_genai import GoogleGenAIInstrumentor as Instrumentor

    package, output, total = "openinference-instrumentation-google-genai", "llm.token_count.completion", "llm.token_count.total"
else:
    from opentelemetry.instrumentation.google_generativeai import GoogleGenerativeAiInstrumentor as Instrumentor

    package = "opentelemetry-instrumentation-google-generativeai"
    output, total = "gen_ai.usage.output_tokens", "gen_ai.usage.total_tokens"
spans, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
Instrumentor().instrument(tracer_provider=provider)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gemini)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = genai.Client(api_key="none", http_options={"base_url": f"http://127.0.0.1:{server.server_port}"})
answer = client.models.generate_content(model="gemini-2.5-flash", contents="x")
list(client.models.generate_content_stream(model="gemini-2.5-flash", contents="x"))
print(package, importlib.metadata.version(package), "with google-genai", importlib.metadata.version("google-genai"))
print("the SDK's own:", answer.usage_metadata.candidates_token_count, "and", answer.usage_metadata.thoughts_token_count, "thoughts")
seen = [(span.attributes[output], span.attributes[total], 600 in span.attributes.values()) for span in spans.get_finished_spans()]
for tokens, both, thoughts in seen:
    print(f"expected: 1000 output tokens; seen: {tokens}, total {both}, the thoughts {'' if thoughts else 'not '}by themselves")
sys.exit(0 if seen == [((1_000, 11_000, True) if sys.argv[1] == "openinference" else (400, 11_000, False))] * 2 else 1)
PYTHON
"$tmp/bin/python" "$tmp/run.py" opentelemetry
"$tmp/bin/python" "$tmp/run.py" openinference
