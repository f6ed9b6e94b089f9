import Cloudflare from 'cloudflare';

// Stored keys and custom providers, from creation to deletion.
const client = new Cloudflare({ apiToken: process.env['CLOUDFLARE_API_TOKEN'], maxRetries: 0 });
const account_id = process.env['ACCOUNT_ID'];
const { providerConfigs, customProviders } = client.aiGateway;

const fields = {
  cache_invalidate_on_update: false,
  cache_ttl: 0,
  collect_logs: true,
  rate_limiting_interval: 0,
  rate_limiting_limit: 0,
};
await client.aiGateway.create({ account_id, id: 'keys', ...fields });
const key = { account_id, default_config: true, provider_slug: 'openai', secret: 'sk-stored-key-0001' };
const stored = await providerConfigs.create('keys', { ...key, alias: 'default', rate_limit: 5 });
await providerConfigs.create('keys', { ...key, alias: 'second' });
const configs = [];
for await (const config of providerConfigs.list('keys', { account_id, per_page: 1 })) configs.push(config);

const base = { account_id, base_url: 'https://models.example.com', enable: true };
const made = await customProviders.create({ ...base, name: 'Models', slug: 'models', headers: '{"x-api-key": "k"}' });
await customProviders.create({ ...base, name: 'Others', slug: 'others', enable: false });
const providers = [];
for await (const provider of customProviders.list({ account_id, per_page: 1 })) providers.push(provider.slug);
const enabled = [];
for await (const provider of customProviders.list({ account_id, enable: true })) enabled.push(provider.slug);
const read = await customProviders.get(made.id, { account_id });
const deleted = await customProviders.delete(made.id, { account_id });

const refused = [];
for (const attempt of [
  () => providerConfigs.create('keys', { ...key, alias: 'default' }),
  () => customProviders.create({ ...base, name: 'Others', slug: 'others' }),
  () => customProviders.create({ ...base, name: 'Private', slug: 'private', base_url: 'https://10.0.0.1' }),
  () => customProviders.get(made.id, { account_id }),
]) {
  try {
    await attempt();
  } catch (error) {
    refused.push({ status: error.status, code: error.errors[0].code, message: error.errors[0].message });
  }
}
console.log(JSON.stringify({ stored, configs, made, providers, enabled, read, deleted, refused }));
