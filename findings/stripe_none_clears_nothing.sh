#!/usr/bin/env bash
# stripe 16.1.0 (PyPI) and stripe 23.1.0 (npm): what an update sends whose values are None or null, or an empty list.
# Guess: both SDKs send the same, and None unsets a field (Stripe unsets what is sent as an empty text); or it is an error.
# Seen: stripe-node sends `name=&metadata[plan]=`, which unsets both. stripe-python sends nothing for either: the request has an
# empty body, succeeds, and the customer keeps name and plan. `""` unsets them in both. An empty list (`preferred_locales`)
# is dropped by both, so the list keeps its entries. Also: a Decimal that stripe-python itself returned for the price 0.0000001 is
# written back as `1E-7`; stripe-node writes `0.0000001`.
# Needs npm, node and python3. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
echo '{"type": "module"}' > package.json
npm install --silent --no-audit --no-fund stripe@23.1.0 > npm.log 2>&1 || { cat npm.log; exit 1; }
python3 -m venv python
python/bin/pip --disable-pip-version-check -q install stripe==16.1.0
cat > update.js <<'JS'
import Stripe from "stripe";

const stripe = new Stripe("sk_test_x", { host: "127.0.0.1", port: process.argv[2], protocol: "http", telemetry: false });
const price = await stripe.prices.retrieve("price_1");
await stripe.customers.update("cus_1", { name: null, metadata: { plan: null } });
await stripe.customers.update("cus_1", { name: "", metadata: { plan: "" } });
await stripe.customers.update("cus_1", { preferred_locales: [] });
await stripe.prices.create({ unit_amount_decimal: price.unit_amount_decimal });
JS
cat > update.py <<'PYTHON'
import http.server
import json
import subprocess
import sys
import threading
from importlib.metadata import version
from urllib.parse import unquote

import stripe

bodies = []


class Stripe(http.server.BaseHTTPRequestHandler):
    def answer(self):
        sent = self.rfile.read(int(self.headers["content-length"] or 0)).decode()
        if self.command == "POST":
            bodies.append(unquote(sent))
        body = json.dumps({"id": "price_1", "object": "price", "unit_amount_decimal": "0.0000001"}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stripe)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = stripe.StripeClient("sk_test_x", base_addresses={"api": f"http://127.0.0.1:{server.server_port}"})
price = client.v1.prices.retrieve("price_1")
client.v1.customers.update("cus_1", {"name": None, "metadata": {"plan": None}})
client.v1.customers.update("cus_1", {"name": "", "metadata": {"plan": ""}})
client.v1.customers.update("cus_1", {"preferred_locales": []})
client.v1.prices.create({"unit_amount_decimal": price.unit_amount_decimal})
python, bodies = bodies, []
subprocess.run(["node", "update.js", str(server.server_port)], check=True)
with open("node_modules/stripe/package.json") as package:
    print("PyPI stripe", version("stripe"), "- npm stripe", json.load(package)["version"])
cases = ("None or null", "empty text", "empty list", "the price 0.0000001 as it was read")
for case, one, other in zip(cases, python, bodies, strict=True):
    print(f"{case}: Python sends {one!r}, Node {other!r}")
unset = "name=&metadata[plan]="
as_seen = ["", unset, "", "unit_amount_decimal=1E-7"], [unset, unset, "", "unit_amount_decimal=0.0000001"]
sys.exit(0 if (python, bodies) == as_seen else 1)
PYTHON
python/bin/python update.py
