#!/bin/bash
# google-genai 3.4.0, given a `base_url`, asks for an upload there, and sends the file itself to whatever host the answer
# names: without the API key, and not by way of the base URL.
#
# A gateway that passes the answer on unchanged therefore sees that a file is begun, and neither its pieces nor its name:
# `x-goog-upload-url` has to be rewritten, and the URL has to be permission enough, as the key does not come along. The
# code that puts host and port of the base URL into that URL looks for it in the options of the one call, which have none.
#
# Guess: the pieces go to the base URL, with the key, as every other request of the client does.
# Seen:  POST to the other server, without `x-goog-api-key`.
#
# Exits with 0 as long as that is so.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install -q --disable-pip-version-check google-genai==3.4.0
"$tmp/venv/bin/python" - <<'PYTHON'
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

from google import genai

seen = []


def serve(name, answer):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("content-length") or 0))
            seen.append((name, self.headers.get("x-goog-api-key")))
            headers, body = answer()
            self.send_response(200)
            for header, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(header, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


file = json.dumps({"file": {"name": "files/abc", "sizeBytes": "5"}}).encode()
other = serve("other", lambda: ({"x-goog-upload-status": "final", "content-type": "application/json"}, file))
base = serve("base", lambda: ({"x-goog-upload-url": f"{other}/upload?upload_id=1"}, b""))
client = genai.Client(api_key="the-key", http_options={"base_url": base})
client.files.upload(file=io.BytesIO(b"Hello"), config={"mime_type": "text/plain"})
print(f"google-genai {version('google-genai')}")
for name, key in seen:
    print(f"POST to the {name} server, key {'sent' if key else 'not sent'}")
raise SystemExit(0 if seen == [("base", "the-key"), ("other", None)] else 1)
PYTHON
