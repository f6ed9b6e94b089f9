import { embed, experimental_transcribe as transcribe, generateText, streamText } from 'ai';
import { createWorkersAI } from 'workers-ai-provider';

// Cloudflare's provider for Vercel's AI SDK. It only knows Cloudflare's host, so its requests are redirected here.
const here = new URL(process.env['CLOUDFLARE_BASE_URL']).origin;
const sent = globalThis.fetch;
globalThis.fetch = (url, init) =>
  sent(String(url).replace(/^https:\/\/(api|gateway\.ai)\.cloudflare\.com/, here), init);

const account = { accountId: process.env['ACCOUNT_ID'], apiKey: process.env['CLOUDFLARE_API_TOKEN'] };
const workers = createWorkersAI(account);
const gateway = createWorkersAI({ ...account, gateway: { id: 'default', metadata: { team: 'a' } } });
const model = '@cf/meta/llama-3.1-8b-instruct';
const prompt = 'Hi';

const whole = await generateText({ model: workers(model), prompt });
const through = await generateText({ model: gateway(model), prompt });
const stream = streamText({ model: workers(model), prompt });
let streamed = '';
for await (const piece of stream.textStream) streamed += piece;
const vector = await embed({ model: workers.textEmbedding('@cf/baai/bge-base-en-v1.5'), value: 'x' });
let refused = null;
try {
  await generateText({ model: workers('@cf/nobody/none'), prompt, maxRetries: 0 });
} catch (error) {
  refused = [error.statusCode, JSON.parse(error.responseBody).errors[0].code];
}
console.log(
  JSON.stringify({
    whole: [whole.text, whole.usage.outputTokens],
    through: through.text,
    streamed: [streamed, (await stream.usage).outputTokens, await stream.finishReason],
    vector: vector.embedding,
    refused,
  }),
);
