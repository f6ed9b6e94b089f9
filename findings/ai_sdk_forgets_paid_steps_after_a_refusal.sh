#!/usr/bin/env bash
# ai 7.0.173 with @ai-sdk/openai 4.0.118 (npm): the usage that `streamText` states if its third step is refused with 402.
# Guess: that of the two steps that were answered: 2,000 tokens in and 200 out; or the promise `totalUsage` rejects. `onFinish` is not
# called, or its finish reason is "error".
# Seen: `onFinish` is called with the finish reason "tool-calls" and a `totalUsage` without any number, and the promise resolves to
# the same: a program that bills its users in `onFinish` records a run without tokens. `steps` contains both answers with their usage,
# and `onStepFinish` was called for each. If the third step breaks off in its stream instead (an event with an error),
# `totalUsage` is 2,000 and 200, with the finish reason "error". `generateText` throws the 402, with nothing of the steps in it.
# Needs npm and node. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
echo '{"type": "module"}' > package.json
npm install --silent --no-audit --no-fund ai@7.0.173 @ai-sdk/openai@4.0.118 zod@4.6.7 > npm.log 2>&1 || { cat npm.log; exit 1; }
cat > run.mjs <<'JS'
import http from "node:http";
import { isDeepStrictEqual } from "node:util";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, isStepCount, streamText, tool } from "ai";
import { z } from "zod";

let requests = 0;
let breaks = false;
const usage = { prompt_tokens: 1000, completion_tokens: 100, total_tokens: 1100 };
const answer = (field, message, finish_reason, more) => ({
  id: "c",
  object: field === "delta" ? "chat.completion.chunk" : "chat.completion",
  created: 1,
  model: "gpt-4o",
  choices: [{ index: 0, [field]: { role: "assistant", ...message }, finish_reason }],
  ...more,
});
const server = http.createServer((request, response) => {
  let body = "";
  request.on("data", (data) => (body += data)).on("end", () => {
    requests += 1;
    const { stream } = JSON.parse(body);
    const called = { index: 0, id: `call_${requests}`, type: "function", function: { name: "weather", arguments: "{}" } };
    let events = [answer("delta", { tool_calls: [called] }, "tool_calls", { usage })];
    if (requests === 3 && !breaks) {
      const error = { message: "no credit", type: "insufficient_quota" };
      response.writeHead(402, { "content-type": "application/json" }).end(JSON.stringify({ error }));
      return;
    }
    if (requests === 3) events = [answer("delta", { content: "Half" }, null), { error: { message: "overloaded", type: "server_error" } }];
    response.writeHead(200, { "content-type": stream ? "text/event-stream" : "application/json" });
    if (stream) response.end([...events.map((event) => JSON.stringify(event)), "[DONE]"].map((line) => `data: ${line}\n\n`).join(""));
    else response.end(JSON.stringify(answer("message", { content: null, tool_calls: [called] }, "tool_calls", { usage })));
  });
});
await new Promise((done) => server.listen(0, "127.0.0.1", done));

const baseURL = `http://127.0.0.1:${server.address().port}`;
const weather = tool({ description: "The weather", inputSchema: z.object({}), execute: async () => "sunny" });
const asked = { model: createOpenAI({ apiKey: "none", baseURL }).chat("gpt-4o"), prompt: "Weather?", tools: { weather } };
const tokens = ({ inputTokens = null, outputTokens = null }) => [inputTokens, outputTokens];
const run = async () => {
  requests = 0;
  const seen = { errors: 0 };
  const result = streamText({
    ...asked,
    stopWhen: isStepCount(10),
    onError: () => (seen.errors += 1),
    onFinish: ({ finishReason, totalUsage }) => (seen.finished = [finishReason, tokens(totalUsage)]),
  });
  await result.consumeStream();
  seen.totalUsage = tokens(await result.totalUsage);
  seen.steps = (await result.steps).map((step) => tokens(step.usage));
  return { requests, ...seen };
};
console.log("expected: totalUsage [2000,200], for two steps of 1000 and 100 that were answered and billed");
const refused = await run();
console.log("third step refused with 402:", JSON.stringify(refused));
breaks = true;
const broken = await run();
console.log("third step ends in an error event:", JSON.stringify(broken));
breaks = false;
requests = 0;
const thrown = await generateText({ ...asked, stopWhen: isStepCount(10) }).catch((error) => error);
console.log("generateText:", thrown.name, thrown.statusCode, "with", Object.keys(thrown).join(", "));
const paid = [1000, 100];
const none = [null, null];
const all = [2000, 200];
const expected = [
  { requests: 3, errors: 1, finished: ["tool-calls", none], totalUsage: none, steps: [paid, paid] },
  { requests: 3, errors: 1, finished: ["error", all], totalUsage: all, steps: [paid, paid, none] },
  402,
  false,
];
process.exit(isDeepStrictEqual([refused, broken, thrown.statusCode, "steps" in thrown || "usage" in thrown], expected) ? 0 : 1);
JS
node --no-warnings run.mjs
