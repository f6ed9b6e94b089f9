import Cloudflare from 'cloudflare';

// Every method of the SDK's billing, on an account with a saved card: it buys 50 USD and sets its limits.
const client = new Cloudflare({ apiToken: process.env['CLOUDFLARE_API_TOKEN'], maxRetries: 0 });
const account_id = process.env['ACCOUNT_ID'];
const billing = client.aiGateway.billing;

const bought = await billing.topup.create({ account_id, amount: 5000 });
const status = await billing.topup.status({ account_id, payment_intent_id: bought.payment_intent_id });
const saved = await billing.topup.config.create({ account_id, amount: 2000, threshold: 500 });
const config = await billing.topup.config.get({ account_id });
const balance = await billing.creditBalance({ account_id });
const history = await billing.invoiceHistory({ account_id, type: 'manual' });
const preview = await billing.invoicePreview({ account_id });
const usage = await billing.usageHistory({ account_id, value_grouping_window: 'day' });
await billing.spendingLimit.create({ account_id, amount: 10000, duration: 'monthly', strategy: 'fixed' });
const limit = await billing.spendingLimit.get({ account_id });
await billing.spendingLimit.delete({ account_id });
await billing.topup.config.delete({ account_id });
const after = await billing.topup.config.get({ account_id });

let refused = null;
try {
  await billing.topup.status({ account_id, payment_intent_id: 'in_none' });
} catch (error) {
  refused = { status: error.status, code: error.errors[0].code };
}
console.log(JSON.stringify({ bought, status, saved, config, balance, history, preview, usage, limit, after, refused }));
