#!/usr/bin/env bash
# Codex 0.171.0 (npm): what ends a run of it at a gateway that has no credit for it.
# Guess: 402 ends it, since asking again cannot help; and of a 429 of type insufficient_quota it shows the message.
# Seen: it sends a request that was answered 402 five times again, and shows the message then. A 429 ends it after one
# request: of type insufficient_quota, in its own words, without the message; of type usage_limit_reached, with the text
# of the header x-codex-promo-message in its own words.
# Needs npm, python3, and about 300 MB for a moment. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
npm install --silent --no-audit --no-fund --prefix "$tmp" @openai/codex@0.171.0 >/dev/null
python3 - "$tmp" <<'PYTHON'
import json
import os
import pathlib
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FOLDER = pathlib.Path(sys.argv[1])
MESSAGE = "Acme has no credit left"


def run(status: int, kind: str) -> tuple[int, str]:
    """How many requests Codex sent, and the errors that it showed."""
    posts = 0

    class Gateway(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, status: int) -> None:
            body = json.dumps({"error": {"message": MESSAGE, "type": kind, "code": kind}}).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("x-codex-promo-message", MESSAGE)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.reply(426)

        def do_POST(self) -> None:
            nonlocal posts
            posts += 1
            self.rfile.read(int(self.headers["content-length"]))
            self.reply(status)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = FOLDER / f"{status}-{kind}"
        home.mkdir()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        (home / "config.toml").write_text(f'model = "gpt-6-astra"\nopenai_base_url = "{url}"\n')
        done = subprocess.run(
            [FOLDER / "node_modules/.bin/codex", "exec", "--skip-git-repo-check", "Say hello"],
            cwd=home,
            env={**os.environ, "CODEX_HOME": str(home), "CODEX_API_KEY": "sk-acme"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
        )
        server.shutdown()
    return posts, [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")][-1]


seen = {case: run(*case) for case in ((402, "no_credit"), (429, "insufficient_quota"), (429, "usage_limit_reached"))}
print("@openai/codex 0.171.0")
print("expected: 402: 1 request; 429 insufficient_quota: the message of the body")
for (status, kind), (posts, shown) in seen.items():
    print(f"seen: {status} {kind}: {posts} requests; {shown}")
as_seen = (
    seen[402, "no_credit"][0] == 6
    and seen[429, "insufficient_quota"][0] == 1
    and MESSAGE not in seen[429, "insufficient_quota"][1]
    and seen[429, "usage_limit_reached"][0] == 1
    and MESSAGE in seen[429, "usage_limit_reached"][1]
)
sys.exit(0 if as_seen else 1)
PYTHON
