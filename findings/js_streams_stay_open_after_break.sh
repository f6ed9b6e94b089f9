#!/usr/bin/env bash
# @google/genai 3.3.0, ai 7.0.173 with @ai-sdk/openai 4.0.118, @huggingface/inference 4.13.30 and openai 7.59.0 (npm): what ends a
# stream that is left by `break`.
# Guess: `for await (const part of stream) { ...; break }` cancels the request: JavaScript calls the iterator's return() at once,
# without any garbage collector. A provider that notices stops generating, and billing.
# Seen: it does with OpenAI's SDK. With the other three the connection stays open and the server writes its answer to the end (here
# four seconds of it), from `generateContentStream`, `streamText().textStream` and `.fullStream`, and `chatCompletionStream`.
# The answer nobody reads is generated, and billed, in full. An AbortSignal (`config.abortSignal`, `abortSignal`, `signal`) that the
# caller aborts besides ends each at once.
# Needs npm and node. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
echo '{"type": "module"}' > package.json
npm install --silent --no-audit --no-fund @google/genai@3.3.0 ai@7.0.173 @ai-sdk/openai@4.0.118 @huggingface/inference@4.13.30 \
    openai@7.59.0 > npm.log 2>&1 || { cat npm.log; exit 1; }
cat > leave.js <<'JS'
import http from "node:http";
import { createOpenAI } from "@ai-sdk/openai";
import { GoogleGenAI } from "@google/genai";
import { InferenceClient } from "@huggingface/inference";
import { streamText } from "ai";
import OpenAI from "openai";

const PIECES = 40;
const google = { candidates: [{ content: { role: "model", parts: [{ text: "word " }] }, index: 0 }] };
const choice = { index: 0, delta: { role: "assistant", content: "word " }, finish_reason: null };
const chunk = { id: "c", object: "chat.completion.chunk", created: 1, model: "m", choices: [choice] };
let ended;

const server = http.createServer(async (request, response) => {
  request.resume();
  response.writeHead(200, { "content-type": "text/event-stream" });
  let written = 0;
  for (; written < PIECES && !response.destroyed; written++) {
    response.write(`data: ${JSON.stringify(request.url.includes("GenerateContent") ? google : chunk)}\n\n`);
    await new Promise((go) => setTimeout(go, 100));
  }
  response.end();
  ended(written);
});
await new Promise((go) => server.listen(0, "127.0.0.1", go));
const url = `http://127.0.0.1:${server.address().port}`;

const messages = [{ role: "user", content: "Hello" }];
const openai = new OpenAI({ apiKey: "key", baseURL: url });
const gemini = new GoogleGenAI({ apiKey: "key", httpOptions: { baseUrl: url } });
const model = createOpenAI({ apiKey: "key", baseURL: url }).chat("m");
const face = new InferenceClient("key", { endpointUrl: url });
const streams = {
  "openai": (signal) => openai.chat.completions.create({ model: "m", messages, stream: true }, { signal }),
  "@google/genai": (abortSignal) => gemini.models.generateContentStream({ model: "m", contents: "Hello", config: { abortSignal } }),
  "ai, textStream": (abortSignal) => streamText({ model, messages, abortSignal }).textStream,
  "ai, fullStream": (abortSignal) => streamText({ model, messages, abortSignal }).fullStream,
  "@huggingface/inference": (signal) => face.chatCompletionStream({ model: "m", messages }, { signal }),
};

async function share(open, abort) {
  const written = new Promise((resolve) => (ended = resolve));
  const controller = new AbortController();
  let parts = 0;
  for await (const _ of await open(controller.signal)) if (++parts === 3) break;
  if (abort) controller.abort();
  return (await written) / PIECES;
}

const percent = (part) => `${Math.round(part * 100)} %`;
let seen = true;
for (const [name, open] of Object.entries(streams)) {
  const left = await share(open, false);
  const aborted = await share(open, true);
  console.log(`${name}: written after break ${percent(left)}, with abort besides ${percent(aborted)}`);
  seen &&= left === 1 === (name !== "openai") && aborted < 0.9;
}
process.exit(seen ? 0 : 1);
JS
for package in openai @google/genai ai @ai-sdk/openai @huggingface/inference; do
    node -p "'$package ' + JSON.parse(require('fs').readFileSync('node_modules/$package/package.json')).version"
done
node leave.js
