#!/usr/bin/env bash
# stripe 16.1.0 (PyPI): how often a request is sent that Stripe answers with 500.
# Guess: three times with the same idempotency key, as with the SDK's functions (`stripe.Customer.create`) and with stripe-node: two
# repetitions are the default (`stripe.max_network_retries` is 2).
# Seen: `stripe.StripeClient`, which the README uses throughout, sends it once, and a connection that ended as well. It does not
# read `stripe.max_network_retries`, whether that is the default or was set. A program that was moved from the functions to the
# client loses its repetitions without a word; `StripeClient(..., max_network_retries=2)` brings them back. A 429 is sent once by
# both, whatever its Retry-After says.
# Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp"
"$tmp/bin/pip" --disable-pip-version-check -q install stripe==16.1.0
"$tmp/bin/python" - <<'PYTHON'
import http.server
import json
import sys
import threading
from importlib.metadata import version

import stripe

status, keys = 500, []


class Stripe(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        keys.append(self.headers["idempotency-key"])
        if not status:
            return
        body = json.dumps({"error": {"type": "api_error", "message": "no"}}).encode()
        self.send_response(status)
        self.send_header("retry-after", "1")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stripe)
threading.Thread(target=server.serve_forever, daemon=True).start()
stripe.api_key, stripe.api_base = "sk_test_x", f"http://127.0.0.1:{server.server_port}"
addresses = {"api": stripe.api_base}


def by_function():
    stripe.Customer.create(name="Acme")


def by_client(**options):
    client = stripe.StripeClient("sk_test_x", base_addresses=addresses, **options)
    client.v1.customers.create({"name": "Acme"})


def sent(call, **options):
    keys.clear()
    try:
        call(**options)
    except stripe.StripeError:
        return len(keys), len(set(keys))


print("stripe", version("stripe"), "- stripe.max_network_retries:", stripe.max_network_retries)
seen = []
for status, name in ((500, "500"), (0, "connection ended"), (429, "429, Retry-After: 1")):
    seen += [sent(by_function), sent(by_client), sent(by_client, max_network_retries=2)]
    print(f"{name}: (requests, different keys) function {seen[-3]}, client {seen[-2]}, client with max_network_retries=2 {seen[-1]}")
stripe.max_network_retries = 5
status = 500
seen.append(sent(by_client))
print("500, client, with stripe.max_network_retries = 5:", seen[-1])
thrice, once = (3, 1), (1, 1)
sys.exit(0 if seen == [thrice, once, thrice] * 2 + [once] * 4 else 1)
PYTHON
