#!/usr/bin/env bash
# openai 7.59.0, @anthropic-ai/sdk 1.16.0, ai 7.0.173 with @ai-sdk/openai 4.0.118, and @mistralai/mistralai 2.7.0 (npm), on Node 20.20.2:
# how long they wait for an answer that is not streamed, and what they do then.
# Guess: ten minutes, the documented default `timeout` of OpenAI's and Anthropic's; the AI SDK and Mistral's, which have no timeout by
# default, for as long as it takes. Models that reason take longer than five minutes now and then.
# Seen: all end after five minutes, because Node's own `fetch` does if no header has come (`UND_ERR_HEADERS_TIMEOUT`); no setting of
# these packages changes that. The first three send the request again, twice by default: an answer that takes six minutes is
# generated and billed three times, and never arrives. OpenAI's `timeout: 1_200_000` does not help. A stream whose headers came
# ends as well if five minutes pass between two events, with "terminated". What helps is to stream from a server that sends something in
# the meantime, or to hand over a `fetch` without these limits: here undici 7.30.2, with which the answer arrives after one request.
# Needs npm and node; takes six minutes. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
echo '{"type": "module"}' > package.json
npm install --silent --no-audit --no-fund openai@7.59.0 @anthropic-ai/sdk@1.16.0 ai@7.0.173 @ai-sdk/openai@4.0.118 \
    @mistralai/mistralai@2.7.0 undici@7.30.2 > npm.log 2>&1 || { cat npm.log; exit 1; }
cat > run.mjs <<'JS'
import http from "node:http";
import Anthropic from "@anthropic-ai/sdk";
import { createOpenAI } from "@ai-sdk/openai";
import { Mistral } from "@mistralai/mistralai";
import { generateText } from "ai";
import OpenAI from "openai";
import { Agent, fetch as undiciFetch } from "undici";

const SLOW = 330_000;
const choice = { index: 0, message: { role: "assistant", content: "Hello" }, finish_reason: "stop" };
const answer = { id: "c", object: "chat.completion", created: 1, model: "m", choices: [choice] };
const requests = {};
const server = http.createServer((request, response) => {
  request.resume();
  const who = request.url.split("/")[1];
  requests[who] = (requests[who] ?? 0) + 1;
  if (who === "stream") {
    response.writeHead(200, { "content-type": "text/event-stream" }).flushHeaders();
    return;
  }
  setTimeout(() => response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(answer)), SLOW);
});
server.keepAliveTimeout = 0;
await new Promise((done) => server.listen(0, "127.0.0.1", done));

const at = (name) => `http://127.0.0.1:${server.address().port}/${name}`;
const key = { apiKey: "none" };
const asked = { model: "m", messages: [{ role: "user", content: "Hi" }] };
const patient = new Agent({ headersTimeout: 0, bodyTimeout: 0 });
const ownFetch = (url, init) => undiciFetch(url, { ...init, dispatcher: patient });
const openai = (name, more) => new OpenAI({ ...key, baseURL: at(name), ...more }).chat.completions;
const calls = {
  openai: () => openai("openai").create(asked),
  "openai, timeout of 20 minutes": () => openai("longer", { timeout: 1_200_000 }).create(asked),
  "openai, own fetch": () => openai("own", { fetch: ownFetch }).create(asked),
  "openai, a stream": async () => {
    for await (const chunk of await openai("stream").create({ ...asked, stream: true })) console.log(chunk);
  },
  anthropic: () => new Anthropic({ ...key, baseURL: at("anthropic") }).messages.create({ ...asked, max_tokens: 100 }),
  ai: () => generateText({ model: createOpenAI({ ...key, baseURL: at("ai") }).chat("m"), messages: asked.messages }),
  mistral: () => new Mistral({ ...key, serverURL: at("mistral") }).chat.complete(asked),
};
const ended = {};
for (const [name, call] of Object.entries(calls))
  call().then(
    (value) => (ended[name] = value.choices[0].message.content),
    (error) => (ended[name] = String(error.cause?.code ?? error.cause?.cause?.code ?? error.cause?.message ?? error.message)),
  );
await new Promise((done) => setTimeout(done, SLOW + 10_000));
console.log(`Node ${process.version}; expected: one request each, which is answered after ${SLOW / 1000} seconds`);
console.log("requests after", (SLOW + 10_000) / 1000, "seconds:", JSON.stringify(requests));
console.log("ended:", JSON.stringify(ended));
const two = ["openai", "longer", "anthropic", "ai"].every((name) => requests[name] === 2);
const one = ["own", "stream", "mistral"].every((name) => requests[name] === 1);
const open = ["openai", "openai, timeout of 20 minutes", "anthropic", "ai"].every((name) => !(name in ended));
const texts = ended["openai, own fetch"] === "Hello" && /terminated|BODY_TIMEOUT/.test(ended["openai, a stream"]);
process.exit(two && one && open && texts && /HEADERS_TIMEOUT|fetch failed/.test(ended.mistral) ? 0 : 1);
JS
node run.mjs
