import Cloudflare from 'cloudflare';

// The life cycles of a route, a dataset, an evaluation and a log, with every method of the SDK for them.
const client = new Cloudflare({ apiToken: process.env['CLOUDFLARE_API_TOKEN'], maxRetries: 0 });
const account_id = process.env['ACCOUNT_ID'];
const gateway_id = 'default';
const { dynamicRouting: routes, datasets, evaluations, evaluationTypes, logs } = client.aiGateway;

const all = async (pages) => {
  const found = [];
  for await (const item of pages) found.push(item);
  return found;
};
const codeOf = async (request) => {
  try {
    await request;
    return null;
  } catch (error) {
    return [error.status, error.errors?.[0]?.code];
  }
};

const elements = (model) => [
  { id: 'start', type: 'start', outputs: { next: { elementId: 'model' } } },
  {
    id: 'model',
    type: 'model',
    properties: { provider: 'demo', model, retries: 1, timeout: 20000 },
    outputs: { success: { elementId: 'end' }, fallback: { elementId: 'end' } },
  },
  { id: 'end', type: 'end', outputs: {} },
];
const where = { account_id, gateway_id };
const made = await routes.create(gateway_id, { account_id, name: 'support', elements: elements('demo-1') });
const twice = await codeOf(routes.create(gateway_id, { account_id, name: 'support', elements: elements('demo-1') }));
const cut = await codeOf(routes.create(gateway_id, { account_id, name: 'cut', elements: elements('x').slice(0, 2) }));
const renamed = await routes.update(made.id, { ...where, name: 'help' });
const version = await routes.createVersion(made.id, { ...where, elements: elements('demo-2') });
const deployed = await routes.createDeployment(made.id, { ...where, version_id: version.version_id });
const got = await routes.get(made.id, where);
const seen = await routes.getVersion(version.version_id, { ...where, id: made.id });
const counts = [
  (await routes.list(gateway_id, { account_id })).data.routes.length,
  (await routes.listVersions(made.id, where)).data.versions.length,
  (await routes.listDeployments(made.id, where)).data.deployments.length,
];
const deletedRoute = await routes.delete(made.id, where);
const goneRoute = await codeOf(routes.get(made.id, where));

const listed = await all(logs.list(gateway_id, { account_id, per_page: 1 }));
await logs.edit(listed[0].id, { ...where, feedback: 1, score: 50, metadata: { ticket: 'a' } });
const rated = await all(logs.list(gateway_id, { account_id, filters: [{ key: 'feedback', operator: 'eq', value: [1] }] }));

const filters = [{ key: 'success', operator: 'eq', value: [true] }];
const dataset = await datasets.create(gateway_id, { account_id, name: 'good', enable: true, filters });
const changed = await datasets.update(dataset.id, { ...where, name: 'better', enable: true, filters });
const types = (await all(evaluationTypes.list({ account_id }))).map((type) => type.id);
let evaluation = await evaluations.create(gateway_id, {
  account_id,
  name: 'first',
  dataset_ids: [dataset.id],
  evaluation_type_ids: types,
});
const id = evaluation.id;
for (let tries = 0; !evaluation.processed && tries < 300; tries++) {
  await new Promise((resolve) => setTimeout(resolve, 100));
  evaluation = await evaluations.get(id, where);
}
const sums = [(await all(datasets.list(gateway_id, { account_id }))).length, (await all(evaluations.list(gateway_id, { account_id }))).length];
await evaluations.delete(id, where);
await datasets.delete(dataset.id, where);
const goneEvaluation = await codeOf(evaluations.get(id, where));
const deletedLogs = await logs.delete(gateway_id, { account_id, filters, limit: 1 });
const left = await all(logs.list(gateway_id, { account_id }));

console.log(
  JSON.stringify({
    made, twice, cut, renamed, deployed, got, seen, counts, deletedRoute, goneRoute,
    logs: listed.length, rated, changed, evaluation, types, sums, goneEvaluation, deletedLogs, left: left.length,
  }),
);
