#!/usr/bin/env bash
# deepgram-sdk 7.17.0 (PyPI): what its client sends when it repeats a recording that was given as a stream of bytes.
# Guess: a request whose body can be read only once is not repeated, as with other SDKs; or the recording is sent again.
# Seen: `transcribe_file(request=…)` takes bytes or an iterator of bytes. After a 429, a 503 or a connection that ended, bytes
# are sent again, but of an iterator nothing is left: the second request has an empty body. It is answered as such, and what
# the caller gets is the transcript of nothing; that the first request failed cannot be seen.
# `request_options={"max_retries": 0}` makes the first failure visible.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install deepgram-sdk==7.17.0
"$tmp/bin/python" - <<'PYTHON'
import http.server
import importlib.metadata
import json
import sys
import threading

import httpx
from deepgram import DeepgramClient
from deepgram.core.api_error import ApiError
from deepgram.environment import DeepgramClientEnvironment

METADATA = {"request_id": "r", "created": "2026-12-01T00:00:00Z", "channels": 1, "sha256": "", "models": [], "model_info": {}}
RECORDING = b"sound" * 1000
status = None
sizes = []


class Provider(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def body(self):
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers["content-length"]))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def do_POST(self):
        sizes.append(len(self.body()))
        if len(sizes) == 1 and status is None:
            self.close_connection = True
            return
        metadata = {**METADATA, "duration": sizes[-1] / 16000}
        answer = json.dumps({"metadata": metadata, "results": {"channels": []}}).encode()
        self.send_response(status if len(sizes) == 1 else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def pieces():
    for start in range(0, len(RECORDING), 1000):
        yield RECORDING[start : start + 1000]


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
client = DeepgramClient(api_key="none", environment=DeepgramClientEnvironment(base=url, production=url, agent=url, agent_rest=url))
print("deepgram-sdk", importlib.metadata.version("deepgram-sdk"))
print(f"expected: {len(RECORDING)} bytes in each request, or an exception")
seen = []
for status, what in ((429, "429"), (503, "503"), (None, "a connection that ended")):
    for name, recording in (("bytes", RECORDING), ("iterator", pieces())):
        sizes.clear()
        answer = client.listen.v1.media.transcribe_file(request=recording, model="nova-3")
        print(f"{name}, after {what}: requests of {sizes} bytes; duration of the transcript {answer.metadata.duration} s")
        again = 5000 if name == "bytes" else 0
        seen.append((sizes, answer.metadata.duration) == ([5000, again], again / 16000))
    sizes.clear()
    try:
        client.listen.v1.media.transcribe_file(request=pieces(), model="nova-3", request_options={"max_retries": 0})
        ended = "a transcript"
    except (ApiError, httpx.TransportError) as error:
        ended = type(error).__name__
    print(f"iterator, after {what}, with max_retries 0: requests of {sizes} bytes, then {ended}")
    seen.append(sizes == [5000] and ended != "a transcript")
sys.exit(0 if all(seen) else 1)
PYTHON
