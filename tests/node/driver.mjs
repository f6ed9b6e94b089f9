import readline from 'node:readline';
import Cloudflare from 'cloudflare';

// Carries out each line of the input with the SDK, and prints a line with the result (tests/http/sdk_drivers.py).
const clients = new Map();
const clientOf = ({ token, baseURL }) => {
  if (!clients.has(token)) clients.set(token, new Cloudflare({ apiToken: token, baseURL, maxRetries: 0 }));
  return clients.get(token);
};

const ask = async (question) => {
  const client = clientOf(question);
  const { sdk, positional, named, method, url, fields } = question;
  if (sdk.length === 0) {
    const options = method === 'get' || method === 'delete' ? { query: fields } : { body: fields };
    return client[method](url, options);
  }
  const resource = sdk.slice(0, -1).reduce((found, name) => found[name], client);
  const pending = resource[sdk.at(-1)](...positional, named);
  if (!(Symbol.asyncIterator in pending)) return pending;
  const all = [];
  for await (const item of pending) all.push(item);
  return all;
};

for await (const line of readline.createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { status: 200, result: await ask(JSON.parse(line)) };
  } catch (error) {
    answer = error instanceof Cloudflare.APIError && error.status
      ? { status: error.status, errors: error.error?.errors ?? error.errors }
      : { failure: String(error?.stack ?? error) };
  }
  console.log(JSON.stringify(answer));
}
