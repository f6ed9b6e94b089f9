#!/usr/bin/env bash
# @huggingface/inference 4.13.30 (npm): what its client does with a 503, and which words of a refusal it shows.
# Guess: it waits before it asks again, for as long as `Retry-After` says, and gives up after a few attempts; and of a body with
# an `error` in OpenAI's form and a `message`, it shows the message.
# Seen: it sends the same request again at once, without a pause and without an end, hundreds in a second here, to a server
# that has asked to be left alone for a minute. `retry_on_error: false` stops it. What is shown of such a body is
# "[object Object]".
# Needs npm and node. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
npm install --silent --no-audit --no-fund --prefix "$tmp" @huggingface/inference@4.13.30 >/dev/null
cat > "$tmp/run.mjs" <<'JS'
import http from "node:http";
import { readFileSync } from "node:fs";
import { InferenceClient } from "@huggingface/inference";

const SECONDS = 3;
const MESSAGE = "the server restarts";
const error = { error: { message: MESSAGE, code: "restart" }, message: MESSAGE };
let status = 503;
let requests = 0;
const server = http.createServer((request, response) => {
  requests += 1;
  request.resume().on("end", () => {
    response.writeHead(status, { "content-type": "application/json", "retry-after": "60" });
    response.end(JSON.stringify(error));
  });
});
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
const client = new InferenceClient("none", { endpointUrl: `http://127.0.0.1:${server.address().port}` });
const ask = { model: "m", messages: [{ role: "user", content: "Hello" }] };

async function outcome(options) {
  requests = 0;
  const call = client.chatCompletion(ask, options).then(() => "an answer", (raised) => raised.message);
  let clock;
  const end = new Promise((done) => { clock = setTimeout(done, SECONDS * 1000, `still asking after ${SECONDS} s`); });
  const seen = await Promise.race([call, end]);
  clearTimeout(clock);
  const counted = requests;
  if (seen.startsWith("still")) {
    status = 400; // so that it ends
    await call;
    status = 503;
  }
  return [counted, seen];
}

const { version } = JSON.parse(readFileSync(new URL("node_modules/@huggingface/inference/package.json", import.meta.url)));
console.log("@huggingface/inference", version);
console.log("expected: a few requests, a minute apart; the message");
const repeated = await outcome({});
console.log(`503 with Retry-After: 60: ${repeated[0] > 100 ? "more than 100" : repeated[0]} requests, ${repeated[1]}`);
const once = await outcome({ retry_on_error: false });
console.log(`the same with retry_on_error: false: ${once[0]} request, ${once[1]}`);
status = 402;
const refused = await outcome({});
console.log(`402: ${refused[0]} request, ${refused[1]}`);
const same = repeated[0] > 100 && repeated[1].startsWith("still") && once[0] === 1 && refused[0] === 1 && refused[1].endsWith("[object Object]");
process.exit(same ? 0 : 1);
JS
(cd "$tmp" && node run.mjs)
