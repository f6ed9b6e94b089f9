// Runs in the folder where the npm packages are installed. Reports what one of them does and shows if a call is refused or breaks off.
// Reads `{"client": NAME, "base": URL, "api": URL, "account": ID, "token": TOKEN, "stream": BOOL, "prompt": TEXT}` from
// standard input, and prints what the package's user sees.
import { text } from 'node:stream/consumers';

const MODEL = 'acme-1';
const WORKERS_MODEL = '@cf/acme/acme-1';

const all = async (stream) => {
  const found = [];
  for await (const item of await stream) found.push(item);
  return found;
};

// Vercel's AI SDK: the loop over the text from its documentation. It prints errors of a stream.
const vercel = async (model, { stream, prompt }) => {
  const { generateText, streamText } = await import('ai');
  if (!stream) return (await generateText({ model, prompt })).text;
  return all(streamText({ model, prompt }).textStream);
};

// Cloudflare's packages know only Cloudflare's hosts.
const sentTo = ({ base, api }) => {
  const fetched = globalThis.fetch;
  const origin = new URL(base).origin;
  globalThis.fetch = (url, init) =>
    fetched(
      String(url)
        .replace('https://gateway.ai.cloudflare.com', origin)
        .replace('https://api.cloudflare.com/client/v4', api),
      init,
    );
};

const CLIENTS = {
  openai: async ({ base, token, stream, messages }) => {
    const { default: OpenAI } = await import('openai');
    const client = new OpenAI({ baseURL: `${base}/openai`, apiKey: token });
    const found = client.chat.completions.create({ model: MODEL, messages, stream });
    return stream ? all(found) : found;
  },
  openai_responses: async ({ base, token, stream, prompt }) => {
    const { default: OpenAI } = await import('openai');
    const client = new OpenAI({ baseURL: `${base}/openai`, apiKey: token });
    const found = client.responses.create({ model: MODEL, input: prompt, stream });
    return stream ? (await all(found)).map((event) => event.type) : found;
  },
  openai_agents: async ({ base, token, stream, prompt }) => {
    const { default: OpenAI } = await import('openai');
    const { Agent, OpenAIResponsesModel, run, setTracingDisabled } = await import('@openai/agents');
    setTracingDisabled(true);
    const model = new OpenAIResponsesModel(new OpenAI({ baseURL: `${base}/openai`, apiKey: token }), MODEL);
    const result = await run(new Agent({ name: 'Acme', model }), prompt, { stream });
    if (stream) for await (const _ of result.toTextStream());
    return result.finalOutput;
  },
  anthropic: async ({ base, token, stream, messages }) => {
    const { default: Anthropic } = await import('@anthropic-ai/sdk');
    const client = new Anthropic({ baseURL: `${base}/anthropic`, apiKey: token });
    const found = client.messages.create({ model: MODEL, max_tokens: 50, messages, stream });
    return stream ? (await all(found)).map((event) => event.type) : found;
  },
  google_genai: async ({ base, token, stream, prompt }) => {
    const { GoogleGenAI } = await import('@google/genai');
    const client = new GoogleGenAI({ apiKey: token, httpOptions: { baseUrl: `${base}/google-ai-studio` } });
    const asked = { model: MODEL, contents: prompt };
    if (!stream) return (await client.models.generateContent(asked)).text;
    return (await all(client.models.generateContentStream(asked))).map((chunk) => chunk.text);
  },
  groq: async ({ base, token, stream, messages }) => {
    const { default: Groq } = await import('groq-sdk');
    const client = new Groq({ baseURL: `${base}/groq`, apiKey: token });
    const found = client.chat.completions.create({ model: MODEL, messages, stream });
    return stream ? all(found) : found;
  },
  mistral: async ({ base, token, stream, messages }) => {
    const { Mistral } = await import('@mistralai/mistralai');
    const client = new Mistral({ serverURL: `${base}/mistral`, apiKey: token });
    return stream ? all(client.chat.stream({ model: MODEL, messages })) : client.chat.complete({ model: MODEL, messages });
  },
  cohere: async ({ base, token, stream, messages }) => {
    const { CohereClientV2 } = await import('cohere-ai');
    const client = new CohereClientV2({ token, environment: `${base}/cohere` });
    return stream ? all(client.chatStream({ model: MODEL, messages })) : client.chat({ model: MODEL, messages });
  },
  cloudflare: async ({ api, account, token, messages }) => {
    const { default: Cloudflare } = await import('cloudflare');
    const client = new Cloudflare({ baseURL: api, apiToken: token });
    return client.ai.run(WORKERS_MODEL, { account_id: account, messages });
  },
  langchain_openai: async ({ base, token, stream, prompt }) => {
    const { ChatOpenAI } = await import('@langchain/openai');
    const model = new ChatOpenAI({ model: MODEL, apiKey: token, configuration: { baseURL: `${base}/openai` } });
    return stream ? all(model.stream(prompt)) : (await model.invoke(prompt)).content;
  },
  ai_openai: async (call) => {
    const { createOpenAI } = await import('@ai-sdk/openai');
    return vercel(createOpenAI({ baseURL: `${call.base}/openai`, apiKey: call.token })(MODEL), call);
  },
  ai_anthropic: async (call) => {
    const { createAnthropic } = await import('@ai-sdk/anthropic');
    return vercel(createAnthropic({ baseURL: `${call.base}/anthropic/v1`, apiKey: call.token })(MODEL), call);
  },
  ai_google: async (call) => {
    const { createGoogleGenerativeAI } = await import('@ai-sdk/google');
    const baseURL = `${call.base}/google-ai-studio/v1beta`;
    return vercel(createGoogleGenerativeAI({ baseURL, apiKey: call.token })(MODEL), call);
  },
  ai_compatible: async (call) => {
    const { createOpenAICompatible } = await import('@ai-sdk/openai-compatible');
    const where = { name: 'farebox', baseURL: `${call.base}/compat`, apiKey: call.token };
    return vercel(createOpenAICompatible(where)(`openai/${MODEL}`), call);
  },
  ai_openrouter: async (call) => {
    const { createOpenRouter } = await import('@openrouter/ai-sdk-provider');
    return vercel(createOpenRouter({ baseURL: `${call.base}/openrouter`, apiKey: call.token })(MODEL), call);
  },
  ai_gateway: async (call) => {
    sentTo(call);
    const { createAiGateway } = await import('ai-gateway-provider');
    const { createOpenAI } = await import('ai-gateway-provider/providers/openai');
    const gateway = createAiGateway({ accountId: call.account, gateway: 'default', apiKey: call.token });
    return vercel(gateway(createOpenAI().chat(MODEL)), call);
  },
  workers_ai: async (call) => {
    sentTo(call);
    const { createWorkersAI } = await import('workers-ai-provider');
    const workers = createWorkersAI({ accountId: call.account, apiKey: call.token, gateway: { id: 'default' } });
    return vercel(workers(WORKERS_MODEL), call);
  },
};

const call = JSON.parse(await text(process.stdin));
call.messages = [{ role: 'user', content: call.prompt }];
const printed = [];
console.error = console.warn = (...said) => printed.push(said.map((part) => part?.message ?? String(part)).join(' '));
try {
  const found = await CLIENTS[call.client](call);
  const said = printed.length > 0 ? `no error, printed: ${printed.join('; ')}` : 'no error';
  console.log(`${said}: ${JSON.stringify(found) ?? String(found)}`);
} catch (error) {
  console.log(`${error?.constructor?.name ?? 'thrown'}: ${error?.message ?? String(error)}`);
}
process.exit(0);
