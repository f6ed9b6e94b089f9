#!/usr/bin/env bash
# elevenlabs 2.78.0 (PyPI): what its client sends for options of a transcription that are not given.
# Guess: an option that is left out is not sent, as with the other options of the same call, and as its types say (OMIT).
# Seen: `speech_to_text.convert(model_id=…, file=…)` sends three fields that nobody gave: `webhook_metadata`,
# `entity_detection` and `entity_redaction`, each with the text `null`. A meter that goes by the presence of a field (entity
# detection is billed in addition) would take it for an option that was asked for; `null` has to be read as "not given".
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

fields = {}
ANSWER = json.dumps({"language_code": "eng", "language_probability": 1, "text": "", "words": []}).encode()


class Provider(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        form = email.message_from_bytes(b"content-type: " + self.headers["content-type"].encode() + b"\r\n\r\n" + body)
        for part in form.get_payload():
            fields[part.get_param("name", header="content-disposition")] = part.get_payload(decode=True).decode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, *_):
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = ElevenLabs(base_url=f"http://127.0.0.1:{server.server_port}", api_key="none")
client.speech_to_text.convert(model_id="scribe_v2", file=b"sound")
given = {"model_id", "file"}
print("elevenlabs", importlib.metadata.version("elevenlabs"))
print("given:", ", ".join(sorted(given)))
unasked = {name: text for name, text in fields.items() if name not in given}
print("sent besides:", ", ".join(f"{name}={text}" for name, text in sorted(unasked.items())) or "nothing")
expected = dict.fromkeys(("entity_detection", "entity_redaction", "webhook_metadata"), "null")
sys.exit(0 if unasked == expected else 1)
PYTHON
