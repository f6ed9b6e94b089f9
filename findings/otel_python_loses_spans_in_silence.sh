#!/usr/bin/env bash
# opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http 1.45.2 (PyPI): what a program learns of spans that did not arrive.
# Guess: a redirect is followed, or is an error as in JavaScript; what the receiver rejects (`partial_success` in its 200) is logged;
# and `force_flush()`, which returns a bool, is False if spans were lost.
# Seen: a redirect (301, 307, 308: http to https, a missing slash) counts as success. The spans are gone, nothing is logged, and the
# exporter returns SUCCESS. So does a response that rejects every span. `force_flush()` is True in these cases, and after 401, 413, 500
# as well, which are logged. A program that ends well after force_flush() may have delivered nothing. @opentelemetry/sdk-trace-node 2.12.1
# with @opentelemetry/exporter-trace-otlp-proto 0.223.1 rejects forceFlush() after a redirect and a 500, and warns of a partial success.
# Needs npm, node and python3. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
echo '{"type": "module"}' > package.json
npm install --silent --no-audit --no-fund @opentelemetry/api@1.9.1 @opentelemetry/sdk-trace-node@2.12.1 \
    @opentelemetry/exporter-trace-otlp-proto@0.223.1 > npm.log 2>&1 || { cat npm.log; exit 1; }
python3 -m venv python
python/bin/pip --disable-pip-version-check -q install opentelemetry-sdk==1.45.2 opentelemetry-exporter-otlp-proto-http==1.45.2
cat > flush.js <<'JS'
import { DiagLogLevel, diag } from "@opentelemetry/api";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-proto";
import { BatchSpanProcessor, NodeTracerProvider } from "@opentelemetry/sdk-trace-node";

let logged = 0;
const quiet = () => {};
const log = () => logged++;
diag.setLogger({ error: log, warn: log, info: quiet, debug: quiet, verbose: quiet }, { logLevel: DiagLogLevel.WARN, suppressOverrideMessage: true });
logged = 0;
const provider = new NodeTracerProvider({ spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter({ url: process.argv[2] }))] });
provider.getTracer("x").startSpan("call").end();
const flushed = await provider.forceFlush().then(() => "resolved", () => "rejected");
console.log(`${flushed}, ${logged ? "logged" : "not logged"}`);
JS
cat > flush.py <<'PYTHON'
import http.server
import logging
import subprocess
import sys
import threading
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

rejecting = ExportTraceServiceResponse()
rejecting.partial_success.rejected_spans = 1
rejecting.partial_success.error_message = "too old"
body, status, followed, records = b"", 200, 0, []


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        global followed
        if self.headers["transfer-encoding"] == "chunked":  # Node's
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
        else:
            self.rfile.read(int(self.headers["content-length"]))
        followed += self.path == "/other"
        self.send_response(status if self.path != "/other" else 200)
        self.send_header("location", "/other")
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Kept(logging.Handler):
    def emit(self, record):
        records.append(record)


def flush():
    records.clear()
    provider = TracerProvider()
    results = []

    class Exporter(OTLPSpanExporter):
        def export(self, spans):
            results.append(super().export(spans))
            return results[-1]

    provider.add_span_processor(BatchSpanProcessor(Exporter(endpoint=url)))
    provider.get_tracer("x").start_span("call").end()
    flushed = provider.force_flush()
    return results[0].name, flushed, bool(records)


logging.getLogger().addHandler(Kept(logging.WARNING))
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/v1/traces"
print("opentelemetry-exporter-otlp-proto-http", version("opentelemetry-exporter-otlp-proto-http"))
print("answer: Python's (result, force_flush(), logged) - Node's forceFlush()")
silent, logged = ("SUCCESS", True, False), ("FAILURE", True, True)
told = "rejected, not logged"
cases = {
    "200": (200, b"", silent, "resolved, not logged"),
    "200, every span rejected": (200, rejecting.SerializeToString(), silent, "resolved, logged"),
    "301": (301, b"", silent, told),
    "307": (307, b"", silent, told),
    "308": (308, b"", silent, told),
    "401": (401, b"", logged, told),
    "413": (413, b"", logged, told),
    "500": (500, b"", logged, told),
}
as_seen = True
for name, (status, body, one, other) in cases.items():
    python = flush()
    node = subprocess.run(["node", "flush.js", url], check=True, capture_output=True, text=True).stdout.strip()
    print(f"{name}: {python} - {node}")
    as_seen = as_seen and (python, node) == (one, other)
print("redirects followed:", followed)
sys.exit(0 if as_seen and not followed else 1)
PYTHON
python/bin/python flush.py
