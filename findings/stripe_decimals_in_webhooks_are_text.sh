#!/usr/bin/env bash
# stripe 23.1.0 (npm): the type of `unit_amount_decimal` where a price comes from.
# Guess: `Decimal`, as its types and its changelog say ("All `decimal_string` fields changed type from `string` to `Stripe.Decimal`
# in both request params and response objects"), wherever the price comes from.
# Seen: it is one if the price itself was asked for, in a list, or as the item of a subscription. In an event (a webhook's, or one that
# was retrieved), in an expanded field and in the lines of an expanded invoice it is text all the same: what compiles,
# `price.unit_amount_decimal.mul(…)`, throws "mul is not a function", and `+` joins digits instead of adding. `Decimal.from(x)` takes
# both. stripe 16.1.0 for Python has Decimal in all of these places.
# Needs npm, node and python3. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
echo '{"type": "module"}' > package.json
npm install --silent --no-audit --no-fund stripe@23.1.0 > npm.log 2>&1 || { cat npm.log; exit 1; }
python3 -m venv python
python/bin/pip --disable-pip-version-check -q install stripe==16.1.0
cat > server.js <<'JS'
import http from "node:http";

const price = { id: "price_1", object: "price", unit_amount_decimal: "0.5" };
const line = { id: "il_1", object: "line_item", pricing: { type: "price_details", unit_amount_decimal: "0.5" } };
const list = (data) => ({ object: "list", has_more: false, url: "/v1/x", data });
export const event = { id: "evt_1", object: "event", type: "price.created", data: { object: price } };
const answers = {
  prices: price,
  events: event,
  products: { id: "prod_1", object: "product", default_price: price },
  invoices: { id: "in_1", object: "invoice", lines: list([line]) },
  subscriptions: {
    id: "sub_1",
    object: "subscription",
    items: list([{ id: "si_1", object: "subscription_item", price }]),
    latest_invoice: { id: "in_1", object: "invoice", lines: list([line]) },
  },
};
export const server = http.createServer((request, response) => {
  const [, , kind, id] = new URL(request.url, "http://stripe").pathname.split("/");
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify(id ? answers[kind] : list([answers[kind]])));
});
await new Promise((go) => server.listen(0, "127.0.0.1", go));
JS
cat > kinds.js <<'JS'
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { promisify } from "node:util";
import Stripe from "stripe";
import { event, server } from "./server.js";

const { port } = server.address();
const stripe = new Stripe("sk_test_x", { host: "127.0.0.1", port, protocol: "http", telemetry: false });
const payload = JSON.stringify(event);
const secret = "whsec_x";
const header = stripe.webhooks.generateTestHeaderString({ payload, secret });
const subscription = await stripe.subscriptions.retrieve("sub_1", { expand: ["latest_invoice"] });
const product = await stripe.products.retrieve("prod_1", { expand: ["default_price"] });
const prices = {
  "price": await stripe.prices.retrieve("price_1"),
  "list of prices": (await stripe.prices.list()).data[0],
  "item of a subscription": subscription.items.data[0].price,
  "line of an invoice": (await stripe.invoices.retrieve("in_1")).lines.data[0].pricing,
  "webhook": stripe.webhooks.constructEvent(payload, header, secret).data.object,
  "event": (await stripe.events.retrieve("evt_1")).data.object,
  "expanded price": product.default_price,
  "line of an expanded invoice": subscription.latest_invoice.lines.data[0].pricing,
};
const version = (name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`)).version;
console.log("npm stripe", version("stripe"));
const kind = (value) => (typeof value === "string" ? "text" : value instanceof Object && value.mul ? "Decimal" : typeof value);
const seen = Object.entries(prices).map(([where, found]) => {
  console.log(`  ${where}: ${kind(found.unit_amount_decimal)}`);
  return kind(found.unit_amount_decimal);
});
let thrown;
try {
  prices.webhook.unit_amount_decimal.mul(Stripe.Decimal.from("2"));
} catch (error) {
  thrown = error.message;
}
console.log(`  webhook, .mul(2): ${thrown}; + 1: ${prices.webhook.unit_amount_decimal + 1}`);
const { stdout } = await promisify(execFile)("python/bin/python", ["kinds.py", String(port), payload]);
console.log(stdout.trim());
server.close();
server.closeAllConnections();
const expected = ["Decimal", "Decimal", "Decimal", "Decimal", "text", "text", "text", "text"];
const decimals = stdout.match(/: Decimal$/gm)?.length;
process.exit(String(seen) === String(expected) && /not a function/.test(thrown) && decimals === 4 ? 0 : 1);
JS
cat > kinds.py <<'PYTHON'
import hashlib
import hmac
import sys
import time
from importlib.metadata import version

import stripe

port, payload = sys.argv[1:]
client = stripe.StripeClient("sk_test_x", base_addresses={"api": f"http://127.0.0.1:{port}"})
at = int(time.time())
signature = hmac.new(b"whsec_x", f"{at}.{payload}".encode(), hashlib.sha256).hexdigest()
subscription = client.v1.subscriptions.retrieve("sub_1", {"expand": ["latest_invoice"]})
prices = {
    "webhook": stripe.Webhook.construct_event(payload, f"t={at},v1={signature}", "whsec_x").data.object,
    "event": client.v1.events.retrieve("evt_1").data.object,
    "expanded price": client.v1.products.retrieve("prod_1", {"expand": ["default_price"]}).default_price,
    "line of an expanded invoice": subscription.latest_invoice.lines.data[0].pricing,
}
print("PyPI stripe", version("stripe"))
for where, found in prices.items():
    print(f"  {where}: {type(found.unit_amount_decimal).__name__}")
PYTHON
node kinds.js
