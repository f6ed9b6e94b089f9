#!/usr/bin/env bash
# aider-chat 0.86.2 (PyPI): how `aider --message` ends if the API refuses to answer for want of money.
# Guess: 402 is not repeated, since asking again cannot help, and the exit status tells a script that nothing was done.
# Seen: LiteLLM, which it uses, has no class for a 402, so aider takes it for a passing error: the request is sent nine
# times in a minute. Then it ends with status 0, as after an answer.
# Needs python3 up to 3.12, and about 550 MB for a moment. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/env"
"$tmp/env/bin/pip" --disable-pip-version-check -q install aider-chat==0.86.2
"$tmp/env/bin/python" - "$tmp" <<'PYTHON'
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FOLDER = pathlib.Path(sys.argv[1])
MESSAGE = "Acme has no credit left"
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
PIECES = [
    {**CHUNK, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hello there"}, "finish_reason": None}]},
    {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
]
ANSWER = b"".join(b"data: %s\n\n" % json.dumps(piece).encode() for piece in PIECES) + b"data: [DONE]\n\n"
ERROR = json.dumps({"error": {"message": MESSAGE, "type": "no_credit", "code": "no_credit", "param": None}}).encode()


def run(status: int) -> tuple[int, int, bool]:
    """How many requests it sent, its exit status, and whether it printed the answer."""
    requests = 0

    class Provider(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal requests
            requests += 1
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-type", "text/event-stream" if status == 200 else "application/json")
            self.send_header("x-should-retry", "false")
            self.end_headers()
            self.wfile.write(ANSWER if status == 200 else ERROR)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = FOLDER / str(status)
        home.mkdir()
        where = ["--openai-api-base", f"http://127.0.0.1:{server.server_port}/v1", "--openai-api-key", "sk-acme"]
        quiet = ["--no-git", "--yes-always", "--no-check-update", "--no-show-model-warnings", "--analytics-disable"]
        done = subprocess.run(
            [FOLDER / "env/bin/aider", "--model", "openai/m", *where, *quiet, "--message", "Say hello"],
            cwd=home,
            env={**os.environ, "HOME": str(home), "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        server.shutdown()
    return requests, done.returncode, "Hello there" in done.stdout


print("aider-chat", importlib.metadata.version("aider-chat"))
print("expected: one request each; status 0 with the answer, another without it")
seen = {status: run(status) for status in (200, 402)}
for status, (requests, ended, answered) in seen.items():
    print(f"seen: {status}: {requests} requests, exit status {ended}, {'the' if answered else 'no'} answer")
sys.exit(0 if seen == {200: (1, 0, True), 402: (9, 0, False)} else 1)
PYTHON
