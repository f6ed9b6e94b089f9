#!/usr/bin/env bash
# gemini-cli 0.61.0 (npm): what it makes of a stream that ends in an error.
# Guess: an event `data: {"error": …}` ends its run with the message; Google's SDK for Python raises, and so does 3.3.0 of
# the one for TypeScript.
# Seen: the version of the SDK that is built into it looks for an error only in a chunk that is JSON as a whole, and takes
# the event for an empty answer. The run begins again, four times in all, prints half an answer each time, never the
# message, and ends with status 0. The same JSON without `data: ` in a chunk of its own ends it with status 1 and the
# message.
# Needs npm, python3, and about 100 MB for a moment. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$tmp" @google/gemini-cli@0.61.0 >/dev/null
python3 - "$tmp" <<'PYTHON'
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FOLDER = pathlib.Path(sys.argv[1])
MESSAGE = "Acme ran out of steam"
ERROR = json.dumps({"error": {"code": 502, "message": MESSAGE, "status": "UNAVAILABLE"}}).encode()
PART = {"content": {"role": "model", "parts": [{"text": "Half an answer"}]}, "index": 0}
HALF = b"data: %s\r\n\r\n" % json.dumps({"candidates": [PART]}).encode()
WHOLE = b"data: %s\r\n\r\n" % json.dumps({"candidates": [{**PART, "finishReason": "STOP"}]}).encode()
STREAMS = {
    "a whole answer": [WHOLE],
    "an event": [HALF, b"data: %s\r\n\r\n" % ERROR],
    "a chunk that is JSON": [HALF, ERROR],
}


def run(name: str) -> tuple[int, int, bool]:
    """How many requests it sent, its exit status, and whether it printed the message."""
    requests = 0

    class Provider(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            nonlocal requests
            requests += 1
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for chunk in STREAMS[name]:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                time.sleep(0.5)  # it reads what has come in one piece
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = FOLDER / name
        (home / ".gemini").mkdir(parents=True)
        settings = {"security": {"auth": {"selectedType": "gemini-api-key"}}}
        (home / ".gemini" / "settings.json").write_text(json.dumps(settings))
        url = f"http://127.0.0.1:{server.server_port}"
        done = subprocess.run(
            [FOLDER / "node_modules/.bin/gemini", "--skip-trust", "--model", "gemini-2.5-pro", "--prompt", "Say hello"],
            cwd=home,
            env={**os.environ, "HOME": str(home), "GEMINI_API_KEY": "acme", "GOOGLE_GEMINI_BASE_URL": url},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
        )
        server.shutdown()
    return requests, done.returncode, MESSAGE in done.stdout + done.stderr


print("@google/gemini-cli 0.61.0")
print("expected: after an error, status 1 and the message")
seen = {name: run(name) for name in STREAMS}
for name, (requests, status, shown) in seen.items():
    print(f"seen: {name}: {requests} requests, status {status}, the message {'is' if shown else 'is not'} printed")
as_seen = (
    seen["a whole answer"] == (1, 0, False)
    and seen["an event"] == (4, 0, False)
    and seen["a chunk that is JSON"][1:] == (1, True)
)
sys.exit(0 if as_seen else 1)
PYTHON
