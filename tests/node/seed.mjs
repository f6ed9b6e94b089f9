import Cloudflare from 'cloudflare';

const client = new Cloudflare({
  apiToken: process.env['CLOUDFLARE_API_TOKEN'], // This is the default and can be omitted
});

const config = await client.aiGateway.billing.topup.config.get({ account_id: 'account_id' });

console.log(config.amount);
