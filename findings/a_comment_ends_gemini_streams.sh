#!/usr/bin/env bash
# litellm 1.110.2 and google-genai 3.6.1 (PyPI): what a comment does to a stream of Gemini's.
# Guess: a comment in a stream of server-sent events is skipped (WHATWG HTML, 9.2.6: "If the line starts with a U+003A COLON
# character (:), ignore the line"); gateways and load balancers send them in silences, so that nobody takes a stream for dead.
# Seen: after `: keep-alive` and an empty line, litellm's `gemini/` provider ends the stream: the text is cut off and nothing
# is raised, so that half an answer looks like a whole one. google-genai raises UnknownApiResponseError. The same two
# events without the comment are read whole by both. So no comment may be sent in Google's form.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install litellm==1.110.2 google-genai==3.6.1
"$tmp/bin/python" - <<'PYTHON'
import contextlib
import http.server
import importlib.metadata
import io
import json
import logging
import sys
import threading
import warnings

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
from google import genai
import litellm


def event(text, **more):
    candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0, **more}
    usage = {"promptTokenCount": 1, "candidatesTokenCount": 2, "totalTokenCount": 3}
    return f"data: {json.dumps({'candidates': [candidate], 'usageMetadata': usage})}\r\n\r\n"


class Gemini(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        comment = ": keep-alive\r\n\r\n" if self.path.startswith("/commented") else ""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write((event("Hello") + comment + event(" there", finishReason="STOP")).encode())

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gemini)
threading.Thread(target=server.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{server.server_port}"


def by_litellm(path):
    messages = [{"role": "user", "content": "x"}]
    with contextlib.redirect_stdout(io.StringIO()):
        chunks = litellm.completion("gemini/m", messages, stream=True, api_key="k", api_base=f"{base}/{path}", num_retries=0)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def by_google(path):
    client = genai.Client(api_key="k", http_options={"base_url": f"{base}/{path}"})
    try:
        return "".join(chunk.text or "" for chunk in client.models.generate_content_stream(model="m", contents="x"))
    except Exception as error:
        return f"raises {type(error).__name__}"


seen = {
    (name, path): read(path)
    for name, read in (("litellm", by_litellm), ("google-genai", by_google))
    for path in ("plain", "commented")
}
for (name, path), text in seen.items():
    print(f"{name} {importlib.metadata.version(name)}, {path}: {text!r}")
print("expected: 'Hello there' four times")
expected = ["Hello there", "Hello", "Hello there", "raises UnknownApiResponseError"]
sys.exit(0 if list(seen.values()) == expected else 1)
PYTHON
