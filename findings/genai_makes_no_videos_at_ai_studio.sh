#!/bin/bash
# google-genai 3.4.0 with an API key of AI Studio refuses to begin a video, without a request, but asks for the operation of
# one that was begun otherwise, and downloads what it has come to.
#
# `models.generate_videos` is for Vertex AI ("Gemini Enterprise Agent Platform") alone. A gateway that serves Veo at AI
# Studio is therefore called by plain HTTP for the beginning; the SDK does the rest.
#
# Guess: `generate_videos` sends `:predictLongRunning`, as `operations.get` sends the request that belongs to it.
# Seen:  ValueError before any request; the operation and the file are asked for.
#
# Exits with 0 as long as that is so.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install -q --disable-pip-version-check google-genai==3.4.0
"$tmp/venv/bin/python" - <<'PYTHON'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

from google import genai
from google.genai import types

NAME = "models/veo-3.1-generate-001/operations/abc"
URI = "https://generativelanguage.googleapis.com/v1beta/files/made:download?alt=media"
DONE = {"name": NAME, "done": True, "response": {"generateVideoResponse": {"generatedSamples": [{"video": {"uri": URI}}]}}}
seen = []


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        seen.append((self.command, self.path.partition("?")[0].rpartition("/")[2]))
        self.rfile.read(int(self.headers.get("content-length") or 0))
        body = b"mp4" if ":download" in self.path else json.dumps(DONE).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = genai.Client(api_key="k", http_options={"base_url": f"http://127.0.0.1:{server.server_port}"})
print(f"google-genai {version('google-genai')}")
refused = ""
try:
    client.models.generate_videos(
        model="veo-3.1-generate-001", source=types.GenerateVideosSource(prompt="A harbour")
    )
except ValueError as error:
    refused = str(error)
print(f"generate_videos: {refused or 'sent'}; requests: {len(seen)}")
operation = client.operations.get(types.GenerateVideosOperation(name=NAME))
print(f"operations.get: done {operation.done}")
content = client.files.download(file=types.Video(uri=URI))
print(f"files.download: {content!r}")
print(f"requests: {seen}")
as_seen = bool(refused) and operation.done and content == b"mp4" and seen == [("GET", "abc"), ("GET", "made:download")]
raise SystemExit(0 if as_seen else 1)
PYTHON
