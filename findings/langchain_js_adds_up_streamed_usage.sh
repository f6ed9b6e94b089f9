#!/usr/bin/env bash
# @langchain/google-genai 2.3.2 and @langchain/anthropic 1.5.11 with @langchain/core 1.4.0 (npm): `usage_metadata` of streams.
# Guess: the same as without a stream. Both APIs state running totals, the last of which holds: Gemini in every chunk, Anthropic in
# `message_start` and `message_delta`; and Gemini's thoughts count as output, whose price they have.
# Seen: Gemini's cached tokens are added up over the chunks: after three, 1,200 of 1,000 input tokens came from the cache, where 400
# did, though input and output are right. Who prices the two separately gets negative input. Its 90 thoughts are no output tokens,
# with or without a stream: 30 instead of 120, and in no detail; only `total_tokens` contains them. Of Anthropic's stream, the
# output tokens of both events are added: 55 instead of 50. `invoke` of a model with `streaming: true` states the same.
# Needs npm and node. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
echo '{"type": "module"}' > package.json
npm install --silent --no-audit --no-fund @langchain/core@1.4.0 @langchain/google-genai@2.3.2 @langchain/anthropic@1.5.11 > npm.log 2>&1 ||
    { cat npm.log; exit 1; }
cat > run.mjs <<'JS'
import http from "node:http";
import { isDeepStrictEqual } from "node:util";
import { ChatAnthropic } from "@langchain/anthropic";
import { ChatGoogleGenerativeAI } from "@langchain/google-genai";

const chunk = (text, written, more) => ({
  candidates: [{ index: 0, content: { role: "model", parts: [{ text }] }, ...more }],
  usageMetadata: {
    promptTokenCount: 1000,
    cachedContentTokenCount: 400,
    candidatesTokenCount: written,
    thoughtsTokenCount: 90,
    totalTokenCount: 1090 + written,
  },
});
const end = { finishReason: "STOP" };
const usage = { input_tokens: 10, cache_creation_input_tokens: 200, cache_read_input_tokens: 3000, output_tokens: 50 };
const message = { id: "msg_1", type: "message", role: "assistant", model: "claude-sonnet-4-5", stop_reason: "end_turn", usage };
const text = { type: "text", text: "Hello" };
const begun = { ...message, content: [], stop_reason: null, usage: { ...usage, output_tokens: 5 } };
const events = [
  { type: "message_start", message: begun },
  { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } },
  { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "Hello" } },
  { type: "content_block_stop", index: 0 },
  { type: "message_delta", delta: { stop_reason: "end_turn", stop_sequence: null }, usage },
  { type: "message_stop" },
];
const server = http.createServer((request, response) => {
  let body = "";
  request.on("data", (data) => (body += data)).on("end", () => {
    const gemini = request.url.includes("enerateContent");
    if (gemini ? request.url.includes("stream") : JSON.parse(body).stream) {
      response.writeHead(200, { "content-type": "text/event-stream" });
      const sent = gemini ? [chunk("He", 10), chunk("ll", 20), chunk("o", 30, end)] : events;
      for (const event of sent) response.write(`${gemini ? "" : `event: ${event.type}\n`}data: ${JSON.stringify(event)}\n\n`);
      response.end();
      return;
    }
    const answer = gemini ? chunk("Hello", 30, end) : { ...message, content: [text] };
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(answer));
  });
});
await new Promise((done) => server.listen(0, "127.0.0.1", done));

const at = `http://127.0.0.1:${server.address().port}`;
const models = {
  gemini: (more) => new ChatGoogleGenerativeAI({ model: "gemini-2.5-flash", apiKey: "none", baseUrl: at, ...more }),
  anthropic: (more) => new ChatAnthropic({ model: "claude-sonnet-4-5", apiKey: "none", anthropicApiUrl: at, ...more }),
};
const streamed = async (model) => {
  let all;
  for await (const part of await model.stream("Hi")) all = all ? all.concat(part) : part;
  return all;
};
const seen = {};
console.log("sent: gemini 1000 in, 400 of them cached, 120 out with thoughts; anthropic 3210 in, 3000 of them cached, 50 out");
for (const [name, model] of Object.entries(models)) {
  const answers = [await model().invoke("Hi"), await streamed(model()), await model({ streaming: true }).invoke("Hi")];
  seen[name] = answers.map(({ usage_metadata: u }) => [u.input_tokens, u.input_token_details.cache_read, u.output_tokens, u.total_tokens]);
  seen[name].push(answers.some(({ usage_metadata: u }) => u.output_token_details?.reasoning));
  console.log(`${name}: [in, cached, out, total] invoke, stream, invoke with streaming: ${JSON.stringify(seen[name].slice(0, 3))}`);
}
const expected = {
  gemini: [[1000, 400, 30, 1120], [1000, 1200, 30, 1120], [1000, 1200, 30, 1120], false],
  anthropic: [[3210, 3000, 50, 3260], [3210, 3000, 55, 3265], [3210, 3000, 55, 3265], false],
};
process.exit(isDeepStrictEqual(seen, expected) ? 0 : 1);
JS
node run.mjs
