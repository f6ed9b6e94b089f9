#!/usr/bin/env bash
# boto3 1.44.8, groq 1.7.0 and together 3.1.1 (PyPI): what they do if a model has not answered in the time that they wait by default.
# Guess: an answer that is not streamed may take ten minutes, as with the SDKs of OpenAI and Anthropic; and a request that was sent and
# may be billed is not sent again because its answer is slow.
# Seen: all three wait for a minute, which models that reason take longer than, and then send the request again, twice: three
# answers are generated and billed, and the caller gets an exception. boto3's attempts carry the same `amz-sdk-invocation-id`; those
# of the others only count, in `x-stainless-retry-count`. `Config(read_timeout=…, retries={"total_max_attempts": 1})`, and `timeout` and `max_retries=0`, prevent it.
# A stream is not affected once it has begun. The server here takes two seconds, and the clients' minute is set to half a second.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install boto3==1.44.8 groq==1.7.0 together==3.1.1
"$tmp/bin/python" - <<'PYTHON'
import http.server
import importlib.metadata
import sys
import threading
import time

import boto3
import groq
import together
from botocore.config import Config

MODEL = "openai.gpt-oss-20b-1:0"
received = []


class Slow(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        received.append(self.headers.get("amz-sdk-invocation-id") or self.headers["x-stainless-retry-count"])
        time.sleep(2)  # the client has hung up by then; what it asked for has been done
        self.close_connection = True

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "us-east-1"}
asked = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}


def bedrock(**options):
    return boto3.client("bedrock-runtime", endpoint_url=url, config=Config(**options), **keys)


def converse():
    bedrock(read_timeout=0.5).converse(modelId=MODEL, messages=[{"role": "user", "content": [{"text": "Hello"}]}])


def chat(sdk):
    return lambda: sdk(api_key="none", base_url=url, timeout=0.5).chat.completions.create(**asked)


waits = {
    "boto3": (bedrock().meta.config.read_timeout, converse),
    "groq": (groq.Groq(api_key="none").timeout.read, chat(groq.Groq)),
    "together": (together.Together(api_key="none").timeout.read, chat(together.Together)),
}
print("expected: one request each")
seen = []
for package, (seconds, ask) in waits.items():
    received.clear()
    try:
        ask()
        ended = "answered"
    except Exception as error:
        ended = type(error).__name__
    seen.append((seconds, len(received), len(set(received)), ended))
    version, marks = importlib.metadata.version(package), ", ".join(received)
    print(f"{package} {version}: waits {seconds:g} s; {len(received)} requests ({marks}), then {ended}")
expected = [(60, 3, 1, "ReadTimeoutError"), (60, 3, 3, "APITimeoutError"), (60, 3, 3, "APITimeoutError")]
sys.exit(0 if seen == expected else 1)
PYTHON
