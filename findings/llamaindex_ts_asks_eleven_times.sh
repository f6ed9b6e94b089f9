#!/usr/bin/env bash
# @llamaindex/openai 0.4.23 with openai 5.23.2 (npm): how often `chat` asks a model that answers more slowly than it waits.
# Guess: three times at most, after ten minutes each: it hands its requests to OpenAI's SDK, whose defaults these are.
# Seen: eleven times, each of which may be generated and billed: its own defaults are a `timeout` of a minute and ten retries. A model
# that reasons for longer than a minute is paid for eleven times, and `chat` raises after as many minutes and the pauses between
# them. Here with a timeout of 0.2 seconds, and a server that answers after three; with `maxRetries: 0` it asks once.
# Needs npm and node; takes a minute. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
echo '{"type": "module"}' > package.json
npm install --silent --no-audit --no-fund @llamaindex/openai@0.4.23 @llamaindex/core@0.6.23 @llamaindex/env@0.1.31 \
    openai@5.23.2 > npm.log 2>&1 || { cat npm.log; exit 1; }
cat > run.mjs <<'JS'
import http from "node:http";
import { isDeepStrictEqual } from "node:util";
import { OpenAI } from "@llamaindex/openai";

const message = { role: "assistant", content: "Hello" };
const choices = [{ index: 0, message, finish_reason: "stop" }];
const answer = JSON.stringify({ id: "c", object: "chat.completion", created: 1, model: "gpt-4o", choices });
let requests = 0;
const server = http.createServer((request, response) => {
  requests += 1;
  request.resume();
  setTimeout(() => response.writeHead(200, { "content-type": "application/json" }).end(answer), 3000);
});
await new Promise((done) => server.listen(0, "127.0.0.1", done));

const own = { model: "gpt-4o", apiKey: "none", baseURL: `http://127.0.0.1:${server.address().port}` };
const { timeout, maxRetries } = new OpenAI(own);
console.log("its defaults: timeout", timeout, "maxRetries", maxRetries);
const seen = [];
for (const more of [{}, { timeout: 200, maxRetries: 0 }, { timeout: 200 }]) {
  requests = 0;
  const ended = await new OpenAI({ ...own, ...more }).chat({ messages: [{ role: "user", content: "Hi" }] }).then(
    ({ message }) => message.content,
    (error) => error.message,
  );
  seen.push([requests, ended]);
  console.log(JSON.stringify(more), "requests:", requests, "-", ended);
}
const slow = "Request timed out.";
process.exit(isDeepStrictEqual([timeout, maxRetries, seen], [60_000, 10, [[1, "Hello"], [1, slow], [11, slow]]]) ? 0 : 1);
JS
node run.mjs
