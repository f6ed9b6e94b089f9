#!/usr/bin/env bash
# @mastra/core 1.71.0 with ai 7.0.173 and @ai-sdk/openai 4.0.118 (npm): which requests `totalUsage` of an agent's answer includes.
# Guess: all that `agent.generate(…)` made, as it includes all steps with tools; or at least all whose text went into the answer.
# Seen: only those to the agent's own model. Left out, without a word, are those of an agent that it asked (`agents: {…}`), of the model
# that turned the answer into an object (`structuredOutput: {schema, model}`, even if it is the same model), and of a processor's
# model (here `LanguageDetector`). 1,000 tokens in and 100 out are stated where 2,000 and 200 were billed. `stream` states the same.
# Also: a 429 or 500 is not repeated (the AI SDK itself does so twice); `new Agent({maxRetries: 2})` repeats it.
# Needs npm and node, and about 200 MB for a moment. Exits 1 if that changes.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
echo '{"type": "module"}' > package.json
npm install --silent --no-audit --no-fund --legacy-peer-deps @mastra/core@1.71.0 ai@7.0.173 @ai-sdk/openai@4.0.118 zod@4.6.7 \
    > npm.log 2>&1 || { cat npm.log; exit 1; }
cat > usage.js <<'JS'
import { readFileSync } from "node:fs";
import http from "node:http";
import { createOpenAI } from "@ai-sdk/openai";
import { Agent } from "@mastra/core/agent";
import { LanguageDetector } from "@mastra/core/processors";
import { z } from "zod";

const usage = { prompt_tokens: 1000, completion_tokens: 100, total_tokens: 1100 };
let answers = [];
let requests = 0;

function message({ text, agent }) {
  if (!agent) return { role: "assistant", content: text };
  const call = { id: "call_1", type: "function", function: { name: agent, arguments: '{"prompt": "Hello"}' } };
  return { role: "assistant", content: null, tool_calls: [call] };
}

const server = http.createServer((request, response) => {
  let body = "";
  request.on("data", (data) => (body += data));
  request.on("end", () => {
    requests++;
    const answer = answers.shift();
    if (answer.status) return response.writeHead(answer.status).end('{"error": {"message": "no"}}');
    const said = message(answer);
    const model = JSON.parse(body);
    const finish_reason = answer.agent ? "tool_calls" : "stop";
    const head = { id: "c", created: 1, model: model.model };
    if (!model.stream) {
      response.writeHead(200, { "content-type": "application/json" });
      const choices = [{ index: 0, message: said, finish_reason }];
      return response.end(JSON.stringify({ ...head, object: "chat.completion", choices, usage }));
    }
    response.writeHead(200, { "content-type": "text/event-stream" });
    const chunk = { ...head, object: "chat.completion.chunk" };
    const delta = { ...said, tool_calls: said.tool_calls?.map((call) => ({ index: 0, ...call })) };
    for (const event of [
      { ...chunk, choices: [{ index: 0, delta, finish_reason }] },
      { ...chunk, choices: [], usage },
    ]) response.write(`data: ${JSON.stringify(event)}\n\n`);
    response.end("data: [DONE]\n\n");
  });
});
await new Promise((go) => server.listen(0, "127.0.0.1", go));

const model = createOpenAI({ apiKey: "key", baseURL: `http://127.0.0.1:${server.address().port}/v1` }).chat("gpt-4o");
const agent = (options) => new Agent({ id: "a", name: "a", instructions: "Answer.", model, ...options });
const helper = new Agent({ id: "helper", name: "helper", description: "Helps.", instructions: "Help.", model });
const detector = new LanguageDetector({ model, targetLanguages: ["English"], strategy: "detect" });
const object = { structuredOutput: { schema: z.object({ a: z.number() }), model } };
const plain = { text: "Hello" };
const json = { text: '{"a": 1}' };
const language = { text: '{"iso_code": "en", "confidence": 0.9}' };
const ask = { agent: "agent-helper" };
const cases = {
  "tokens of one answer": [{}, {}, [plain], 1],
  "asked another agent": [{ agents: { helper } }, {}, [ask, plain, plain], 2],
  "object by a model": [{}, object, [plain, json], 1],
  "language detected": [{ inputProcessors: [detector] }, {}, [language, plain], 1],
};
console.error = console.warn = () => {};
const print = process.stdout.write.bind(process.stdout);
console.log = () => {};
for (const name of ["@mastra/core", "ai", "@ai-sdk/openai"])
  print(`${name} ${JSON.parse(readFileSync(`node_modules/${name}/package.json`)).version}\n`);

const counted = ({ inputTokens, outputTokens }) => `${inputTokens} in, ${outputTokens} out`;
let seen = true;
for (const [name, [options, settings, said, own]] of Object.entries(cases)) {
  requests = 0;
  answers = [...said];
  const question = "Hello there, how is the weather in London today?";
  const once = await agent(options).generate(question, settings);
  const billed = requests;
  answers = [...said];
  const stream = await agent(options).stream(question, settings);
  for await (const _ of stream.fullStream);
  const stated = [counted(await once.totalUsage), counted(await stream.totalUsage)];
  print(`${name}: billed ${billed * 1000} in, ${billed * 100} out; generate states ${stated[0]}; stream ${stated[1]}\n`);
  seen &&= billed === said.length && stated.every((one) => one === `${own * 1000} in, ${own * 100} out`);
}
const sent = [];
for (const options of [{}, { maxRetries: 2 }]) {
  requests = 0;
  answers = [{ status: 500 }, { status: 500 }, plain];
  await agent(options).generate("Hello").catch(() => {});
  sent.push(requests);
}
print(`requests at 500: ${sent[0]}, with maxRetries 2: ${sent[1]}\n`);
process.exit(seen && sent[0] === 1 && sent[1] === 3 ? 0 : 1);
JS
node usage.js
