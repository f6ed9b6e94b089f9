#!/usr/bin/env bash
# opencode 1.18.33 (npm): which refusals it repeats, and how long it waits before it does.
# Guess: it repeats 408, 409, 429 and 5xx, as the SDK that it uses (Vercel's), and no 402; nor what has x-should-retry: false;
# nor does it wait for a day.
# Seen: it looks for "429", "500", "502" and so on anywhere in the body: a 402 that says "costs 1400 USD" ends its run at
# once, one that says "costs 1500 USD" is repeated. And it waits for as long as Retry-After says, with whatever status:
# after a 429 whose Retry-After is a day it sleeps for the day, without a word (here it is ended after 40 seconds).
# Needs npm, python3, and about 400 MB for a moment. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
npm install --silent --no-audit --no-fund --prefix "$tmp" opencode-ai@1.18.33 >/dev/null
python3 - "$tmp" <<'PYTHON'
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FOLDER = pathlib.Path(sys.argv[1])
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
PIECES = [
    {**CHUNK, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hello there"}, "finish_reason": None}]},
    {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
]
ANSWER = b"".join(b"data: %s\n\n" % json.dumps(piece).encode() for piece in PIECES) + b"data: [DONE]\n\n"


def run(status: int, message: str, headers: dict[str, str]) -> tuple[int, bool, str]:
    """How often it asked for an answer, whether it ended, and what it printed."""
    asked = 0

    class Provider(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal asked
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked += "tools" in body  # another request, without tools, asks for a title
            self.send_response(status)
            self.send_header("content-type", "text/event-stream" if status == 200 else "application/json")
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            error = {"message": message, "type": "refused", "code": "refused", "param": None}
            self.wfile.write(ANSWER if status == 200 else json.dumps({"error": error}).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = FOLDER / f"{status} {message}"
        home.mkdir()
        options = {"baseURL": f"http://127.0.0.1:{server.server_port}/v1", "apiKey": "sk-acme"}
        acme = {"npm": "@ai-sdk/openai-compatible", "name": "Acme", "options": options, "models": {"m": {}}}
        (home / "opencode.json").write_text(json.dumps({"provider": {"acme": acme}, "autoupdate": False}))
        path = home / "printed"
        with path.open("w") as printed:
            process = subprocess.Popen(
                [FOLDER / "node_modules/.bin/opencode", "run", "--model", "acme/m", "Say hello"],
                cwd=home,
                env={**os.environ, "HOME": str(home), "PWD": str(home), "NO_COLOR": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                start_new_session=True,
            )
            try:
                process.wait(40)
                ended = True
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                ended = False
        server.shutdown()
    return asked, ended, path.read_text()


DAY = {"retry-after": "86400", "x-should-retry": "false"}
NEVER = {"x-should-retry": "false"}
CASES = {
    "answer": (200, "", {}),
    "1400": (402, "costs 1400 USD", NEVER),
    "1500": (402, "costs 1500 USD", NEVER),
    "day": (429, "used up", DAY),
}
print("opencode-ai 1.18.33")
print("expected: each ends after one request; the answer or the message is printed")
seen = {name: run(*case) for name, case in CASES.items()}
for name, (asked, ended, printed) in seen.items():
    status, message, headers = CASES[name]
    shown = (message or "Hello there") in printed
    end = "ended" if ended else "still running after 40 s"
    print(f"seen: {status} {message!r} {headers}: {asked} requests, {end}, {'it' if shown else 'nothing'} was printed")
as_seen = (
    seen["answer"][:2] == seen["1400"][:2] == (1, True)
    and "Hello there" in seen["answer"][2]
    and "costs 1400 USD" in seen["1400"][2]
    and seen["1500"][0] > 1
    and seen["day"][:2] == (1, False)
    and "used up" not in seen["day"][2]
)
sys.exit(0 if as_seen else 1)
PYTHON
