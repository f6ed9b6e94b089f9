#!/usr/bin/env bash
# openrouter 1.3.84 (PyPI): how its client ends if the API answers 502, with its default settings.
# Guess: after two or three attempts, as with the SDKs of OpenAI, Anthropic or Groq, it raises; at once if `x-should-retry` is
# false, and if `Retry-After` is longer than is practical.
# Seen: it repeats every 5xx for an hour (its own default, `max_elapsed_time=3600000`), counted in time and not in attempts, at
# pauses of at most a minute, whatever `x-should-retry` says. A `Retry-After` replaces the pause without a bound (by its source;
# run here with 90 seconds, where its own pauses end at 60). Nothing is printed or logged until it raises after the hour.
# `retries=RetryConfig("none", …)` raises after the first.
# Each call runs in a process of its own, in which `time.sleep` returns at once and moves `time.time`. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install openrouter==1.3.84
cat > "$tmp/ask.py" <<'PYTHON'
import json
import sys
import time

from openrouter import OpenRouter
from openrouter.utils import BackoffStrategy, RetryConfig

began, real, pauses = time.time(), time.time, []
time.sleep = pauses.append
time.time = lambda: real() + sum(pauses)
client = OpenRouter(api_key="none", server_url=sys.argv[1])
never = {"retries": RetryConfig("none", BackoffStrategy(0, 0, 0, 0), False)} if sys.argv[2] == "never" else {}
try:
    client.chat.send(model="m", messages=[{"role": "user", "content": "Hello"}], **never)
    ended = "a response"
except Exception as error:
    ended = type(error).__name__
print(json.dumps({"ended": ended, "minutes": round((time.time() - began) / 60), "longest": max(pauses, default=0)}))
PYTHON
"$tmp/bin/python" - "$tmp" <<'PYTHON'
import http.server
import importlib.metadata
import json
import subprocess
import sys
import threading

SECONDS = 60
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
    ("Retry-After: 90", {**NEVER, "retry-after": "90"}, "default"),
    ("no retries in its settings", NEVER, "never"),
):
    requests = 0
    command = [sys.executable, f"{sys.argv[1]}/ask.py", f"http://127.0.0.1:{server.server_port}", retries]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS, check=True)
    (line,) = result.stdout.splitlines()  # nothing else is printed
    found = seen[name] = json.loads(line)
    ended = f"{found['ended']} after {found['minutes']} minutes; the longest pause {found['longest']:.0f} s"
    print(f"{name}: {requests} requests, {ended}")
    found["requests"] = requests
hour, asked, once = seen.values()
for_an_hour = hour["requests"] > 60 and 60 <= hour["minutes"] <= 62 and hour["longest"] == 60
as_asked = 60 <= asked["minutes"] <= 62 and asked["longest"] == 90
errors = {found["ended"] for found in seen.values()} == {"BadGatewayResponseError"}
sys.exit(0 if for_an_hour and as_asked and errors and (once["requests"], once["longest"]) == (1, 0) else 1)
PYTHON
