#!/usr/bin/env bash
# openrouter 1.3.84 (PyPI): how its client ends if the API answers 502, with its default settings.
# Guess: after two or three attempts, as with the SDKs of OpenAI, Anthropic or Groq, it raises; at once if `x-should-retry` is
# false, and if `Retry-After` is longer than anybody would wait.
# Seen: it repeats every 5xx for an hour (its own default, `max_elapsed_time=3600000`), counted in time and not in attempts, at
# pauses of at most a minute, whatever `x-should-retry` says. A `Retry-After` replaces the pause without a bound: with one of a
# day it sleeps for the day. No log line, no exception. `retries=RetryConfig("none", …)` raises after the first.
# Each call runs in a process of its own, which is ended after 10 seconds. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install openrouter==1.3.84
cat > "$tmp/ask.py" <<'PYTHON'
import sys

from openrouter import OpenRouter
from openrouter.utils import BackoffStrategy, RetryConfig

client = OpenRouter(api_key="none", server_url=sys.argv[1])
never = {"retries": RetryConfig("none", BackoffStrategy(0, 0, 0, 0), False)} if sys.argv[2] == "never" else {}
client.chat.send(model="m", messages=[{"role": "user", "content": "Hello"}], **never)
PYTHON
"$tmp/bin/python" - "$tmp" <<'PYTHON'
import http.server
import importlib.metadata
import json
import subprocess
import sys
import threading

SECONDS = 10
ANSWER = json.dumps({"error": {"code": 502, "message": "the provider is down"}}).encode()
headers = {}
requests = 0


class Provider(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        global requests
        requests += 1
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(502)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("openrouter", importlib.metadata.version("openrouter"))
print("expected: it ends after a few requests; after one if it is told not to repeat")
NEVER = {"x-should-retry": "false"}
seen = {}
for name, headers, retries in (
    ("x-should-retry: false", NEVER, "default"),
    ("Retry-After: 86400", {**NEVER, "retry-after": "86400"}, "default"),
    ("no retries in its settings", NEVER, "never"),
):
    requests = 0
    command = [sys.executable, f"{sys.argv[1]}/ask.py", f"http://127.0.0.1:{server.server_port}", retries]
    try:
        subprocess.run(command, stderr=subprocess.DEVNULL, timeout=SECONDS, check=False)
        ended = "ended"
    except subprocess.TimeoutExpired:
        ended = f"still running after {SECONDS} s"
    print(f"{name}: {requests} requests, {ended}")
    seen[name] = requests, ended == "ended"
(many, first), (one, second), last = seen.values()
sys.exit(0 if many > 3 and not first and one == 1 and not second and last == (1, True) else 1)
PYTHON
