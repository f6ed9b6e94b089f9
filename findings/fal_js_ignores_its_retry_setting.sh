#!/usr/bin/env bash
# @fal-ai/client 1.10.1 (npm): how often `fal.run` orders an image if the connection ends and its own `retry` setting is no retries.
# Guess: once. `retry: {maxRetries: 0}` is the documented setting of the client for it ("when not specified, a default retry
# configuration is used").
# Seen: `run` and `queue.submit` have fixed settings of their own, which take precedence: four POSTs, with the setting as without
# it, and nothing in them says that they are one. A POST of which the connection ended may have been carried out, so up to four
# images are made and billed. What helps is a custom `fetch` that returns a response where it would throw.
# Needs npm and node. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
npm install --silent --no-audit --no-fund --prefix "$tmp" @fal-ai/client@1.10.1 >/dev/null
cat > "$tmp/run.mjs" <<'JS'
import http from "node:http";
import { readFileSync } from "node:fs";
import { createFalClient } from "@fal-ai/client";

const orders = [];
const server = http.createServer((request) => {
  orders.push(`${request.method} ${request.headers["idempotency-key"] ?? "without a key"}`);
  request.resume().on("end", () => request.socket.destroy());
});
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
const here = `http://127.0.0.1:${server.address().port}`;
const requestMiddleware = async (request) => ({ ...request, url: request.url.replace(/^https:\/\/[^/]+/, here) });
const caught = (...given) => fetch(...given).catch((error) => Response.json({ detail: String(error) }, { status: 500 }));
const { version } = JSON.parse(readFileSync(new URL("node_modules/@fal-ai/client/package.json", import.meta.url)));
console.log("@fal-ai/client", version);
console.log("expected: one POST with maxRetries: 0");
const settings = {
  "default settings": {},
  "retry: {maxRetries: 0}": { retry: { maxRetries: 0 } },
  "a fetch that does not throw": { fetch: caught },
};
const seen = [];
for (const [name, setting] of Object.entries(settings)) {
  const client = createFalClient({ credentials: "none", requestMiddleware, ...setting });
  const calls = { run: () => client.run("fal-ai/flux/dev", { input: {} }), "queue.submit": () => client.queue.submit("fal-ai/flux/dev", { input: {} }) };
  for (const [method, call] of Object.entries(calls)) {
    orders.length = 0;
    const ended = await call().catch((error) => error.constructor.name);
    console.log(`${name}, ${method}: ${orders.length} times ${[...new Set(orders)]}, then ${ended}`);
    seen.push(orders.length);
  }
}
process.exit(JSON.stringify(seen) === JSON.stringify([4, 4, 4, 4, 1, 1]) ? 0 : 1);
JS
(cd "$tmp" && node run.mjs)
