#!/usr/bin/env bash
# elevenlabs 2.78.0 (PyPI): what its client sends when it repeats a transcription that was refused for a moment.
# Guess: the same request again, as after any 429 or 503 that names a Retry-After.
# Seen: the second request has the file alone. `model_id` (which the API requires), the language and the options of the first
# are gone, so the caller reads that the model is missing and never that the server was busy; a server that has a default model
# would transcribe and bill with other options than were asked for. `x-should-retry: false` does not stop it.
# `request_options={"max_retries": 0}` does.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install elevenlabs==2.78.0
"$tmp/bin/python" - <<'PYTHON'
import email
import http.server
import importlib.metadata
import json
import sys
import threading

from elevenlabs.client import ElevenLabs
from elevenlabs.core.api_error import ApiError

ANSWER = json.dumps({"language_code": "deu", "language_probability": 1, "text": "", "words": []}).encode()
status = 200
forms = []


class Provider(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        form = email.message_from_bytes(b"content-type: " + self.headers["content-type"].encode() + b"\r\n\r\n" + body)
        forms.append(sorted(part.get_param("name", header="content-disposition") for part in form.get_payload()))
        self.send_response(status if len(forms) == 1 else 200)
        self.send_header("retry-after", "1")
        self.send_header("x-should-retry", "false")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, *_):
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = ElevenLabs(base_url=f"http://127.0.0.1:{server.server_port}", api_key="none")
print("elevenlabs", importlib.metadata.version("elevenlabs"))
print("expected: the same fields twice")
as_seen = []
for status in (429, 503):
    forms.clear()
    client.speech_to_text.convert(model_id="scribe_v2", file=b"sound", language_code="de", diarize=True)
    for number, names in enumerate(forms):
        print(f"after {status}: " if number else "first: ", ", ".join(names))
    as_seen.append({"model_id", "language_code", "diarize", "file"} <= set(forms[0]) and forms[1:] == [["file"]])
    forms.clear()
    try:
        client.speech_to_text.convert(model_id="scribe_v2", file=b"sound", request_options={"max_retries": 0})
        ended = "a transcript"
    except ApiError as error:
        ended = f"ApiError {error.status_code}"
    print(f"after {status}, with max_retries 0: {len(forms)} request, then {ended}")
    as_seen.append((len(forms), ended) == (1, f"ApiError {status}"))
sys.exit(0 if all(as_seen) else 1)
PYTHON
