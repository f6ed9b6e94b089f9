#!/usr/bin/env bash
# replicate 1.4.0 (npm): how often `replicate.run` begins a prediction if the connection ends, and how it waits after a 429.
# Guess: a POST that may have begun a prediction (they are billed) is not sent again, or with a key by which the server can tell;
# after a 429 it waits for as long as `Retry-After` says, or half a second, one, two … as the default interval of 500 ms says.
# Seen: any failure of the network is repeated, POST too: six requests that each may begin a prediction, and nothing in them
# says that they are one. `Retry-After` is not read after a 429; and since the pause is only taken where its length is a whole
# number of milliseconds, which with its random part it practically never is, all six leave within a moment.
# Needs npm and node. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
npm install --silent --no-audit --no-fund --prefix "$tmp" replicate@1.4.0 >/dev/null
cat > "$tmp/run.mjs" <<'JS'
import http from "node:http";
import { readFileSync } from "node:fs";
import Replicate from "replicate";

const requests = [];
let status;
const server = http.createServer((request, response) => {
  requests.push({ at: Date.now(), method: request.method, key: request.headers["idempotency-key"] });
  request.resume().on("end", () => {
    if (status === undefined) return request.socket.destroy();
    response.writeHead(status, { "content-type": "application/json", "retry-after": "5" });
    response.end(JSON.stringify({ detail: "Request was throttled." }));
  });
});
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
const client = new Replicate({ auth: "none", baseUrl: `http://127.0.0.1:${server.address().port}` });
const { version } = JSON.parse(readFileSync(new URL("node_modules/replicate/package.json", import.meta.url)));
console.log("replicate", version);
console.log("expected: one POST if the connection ends; 5 s between two after the 429");
let same = true;
for (const [name, code] of [["the connection ends", undefined], ["429 with Retry-After: 5", 429]]) {
  status = code;
  requests.length = 0;
  const raised = await client.run("black-forest-labs/flux-schnell", { input: { prompt: "A harbour" } }).catch((error) => error);
  const took = requests.at(-1).at - requests[0].at;
  const posts = requests.filter((one) => one.method === "POST" && one.key === undefined).length;
  console.log(`${name}: ${posts} POSTs ${took < 2000 ? "within two seconds" : `in ${took} ms`}, then ${raised.constructor.name}`);
  same &&= posts === 6 && took < 2000;
}
process.exit(same ? 0 : 1);
JS
(cd "$tmp" && node run.mjs)
