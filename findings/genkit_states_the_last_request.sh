#!/usr/bin/env bash
# genkit 1.42.0 with @genkit-ai/google-genai and @genkit-ai/compat-oai 1.42.0 (npm): the usage of `generate` that called tools.
# Guess: the tokens of all requests that it made: it returns one response for them, whose `messages` contains every turn. The AI SDK and
# OpenAI's Agents SDK do so.
# Seen: those of the last request alone, a third of what was billed after two calls of tools; with streams too. `messages` has the other
# turns without their usage. With Gemini, `outputTokens` leaves out the thoughts (billed as output; `thoughtsTokens` has them); with
# OpenAI's format, the tokens read from the cache, which cost less, are in no field, nor in `raw`.
# Needs npm and node, and about 200 MB for a moment. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
echo '{"type": "module"}' > package.json
npm install --silent --no-audit --no-fund genkit@1.42.0 @genkit-ai/google-genai@1.42.0 @genkit-ai/compat-oai@1.42.0 > npm.log 2>&1 ||
    { cat npm.log; exit 1; }
cat > run.mjs <<'JS'
import http from "node:http";
import { isDeepStrictEqual } from "node:util";
import { openAICompatible } from "@genkit-ai/compat-oai";
import { googleAI } from "@genkit-ai/google-genai";
import { genkit, z } from "genkit";

let requests = 0;
const gemini = () => {
  const part = requests < 3 ? { functionCall: { name: "weather", args: { city: "Bern" } } } : { text: "Sunny" };
  const usageMetadata = { promptTokenCount: 1000, candidatesTokenCount: 10, thoughtsTokenCount: 90, totalTokenCount: 1100 };
  return { candidates: [{ index: 0, content: { role: "model", parts: [part] }, finishReason: "STOP" }], usageMetadata };
};
const openai = (stream) => {
  const called = { index: 0, id: `call_${requests}`, type: "function", function: { name: "weather", arguments: '{"city":"Bern"}' } };
  const message = { role: "assistant", ...(requests < 3 ? { tool_calls: [called] } : { content: "Sunny" }) };
  const choice = { index: 0, [stream ? "delta" : "message"]: message, finish_reason: requests < 3 ? "tool_calls" : "stop" };
  const usage = { prompt_tokens: 1000, completion_tokens: 100, total_tokens: 1100, prompt_tokens_details: { cached_tokens: 400 } };
  return { id: "c", object: `chat.completion${stream ? ".chunk" : ""}`, created: 1, model: "gpt-4o", choices: [choice], usage };
};
const server = http.createServer((request, response) => {
  let body = "";
  request.on("data", (data) => (body += data)).on("end", () => {
    requests += 1;
    const google = request.url.includes("enerateContent");
    const stream = google ? request.url.includes("stream") : JSON.parse(body).stream;
    const answer = JSON.stringify(google ? gemini() : openai(stream));
    response.writeHead(200, { "content-type": stream ? "text/event-stream" : "application/json" });
    response.end(stream ? `data: ${answer}\n\n${google ? "" : "data: [DONE]\n\n"}` : answer);
  });
});
await new Promise((done) => server.listen(0, "127.0.0.1", done));

const at = `http://127.0.0.1:${server.address().port}`;
const ai = genkit({
  plugins: [googleAI({ apiKey: "none", baseUrl: at }), openAICompatible({ name: "own", apiKey: "none", baseURL: `${at}/v1` })],
});
const input = { inputSchema: z.object({ city: z.string() }), outputSchema: z.string() };
const weather = ai.defineTool({ name: "weather", description: "Weather of a city", ...input }, async () => "sunny");
const asked = { prompt: "Weather?", tools: [weather] };
const seen = [];
console.log("expected: 3300 tokens, those of three requests of 1000 in and 100 out");
for (const model of ["googleai/gemini-2.5-flash", "own/gpt-4o"])
  for (const stream of [false, true]) {
    requests = 0;
    const response = await (stream ? ai.generateStream({ model, ...asked }).response : ai.generate({ model, ...asked }));
    const { inputTokens, outputTokens, totalTokens, thoughtsTokens = null } = response.usage;
    const cached = JSON.stringify([response.usage, response.raw, response.custom]).includes("400");
    seen.push([requests, response.messages.length, inputTokens, outputTokens, totalTokens, thoughtsTokens, cached]);
    console.log(model, stream ? "streamed" : "", "[requests, messages, in, out, total, thoughts, cached]:", JSON.stringify(seen.at(-1)));
  }
const google = [3, 6, 1000, 10, 1100, 90, false];
const own = [3, 6, 1000, 100, 1100, null, false];
process.exit(isDeepStrictEqual(seen, [google, google, own, own]) ? 0 : 1);
JS
node run.mjs
