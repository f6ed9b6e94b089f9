import Cloudflare from 'cloudflare';

const client = new Cloudflare({
  apiToken: process.env['CLOUDFLARE_API_TOKEN'], // This is the default and can be omitted
});
const account_id = process.env['ACCOUNT_ID'];

const config = await client.aiGateway.billing.topup.config.get({ account_id });
const balance = await client.aiGateway.billing.creditBalance({ account_id });

const fields = {
  cache_invalidate_on_update: false,
  cache_ttl: 0,
  collect_logs: true,
  rate_limiting_interval: 0,
  rate_limiting_limit: 0,
};
for (const id of ['one', 'two', 'three']) await client.aiGateway.create({ account_id, id, ...fields });
const gateways = [];
for await (const gateway of client.aiGateway.list({ account_id, per_page: 2 })) gateways.push(gateway.id);

let refused = null;
try {
  await client.aiGateway.get('none', { account_id });
} catch (error) {
  refused = { status: error.status, code: error.errors[0].code };
}
console.log(JSON.stringify({ config, balance, gateways, refused }));
