-- From version 8 to 9.

-- Dynamic routes.
CREATE TABLE routes (
    bucket        INTEGER NOT NULL,
    account_id    TEXT NOT NULL,
    gateway_id    TEXT NOT NULL,
    route_id      TEXT NOT NULL,
    name          TEXT NOT NULL,
    version_id    TEXT NOT NULL,
    deployment_id TEXT NOT NULL,
    created_at    BIGINT NOT NULL,
    modified_at   BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, gateway_id, route_id)
) /* clustered */;
CREATE UNIQUE INDEX routes_by_name ON routes (bucket, account_id, gateway_id, name);
CREATE TABLE route_versions (
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    gateway_id TEXT NOT NULL,
    route_id   TEXT NOT NULL,
    version_id TEXT NOT NULL,
    elements   TEXT NOT NULL,
    valid      INTEGER NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, gateway_id, route_id, version_id)
) /* clustered */;
CREATE TABLE route_deployments (
    bucket        INTEGER NOT NULL,
    account_id    TEXT NOT NULL,
    gateway_id    TEXT NOT NULL,
    route_id      TEXT NOT NULL,
    deployment_id TEXT NOT NULL,
    version_id    TEXT NOT NULL,
    created_at    BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, gateway_id, route_id, deployment_id)
) /* clustered */;

-- Stored keys and custom providers.
CREATE TABLE secrets (
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    secret_id   TEXT NOT NULL,
    provider    TEXT NOT NULL,
    store_id    TEXT NOT NULL,
    sealed      BYTEA NOT NULL,
    preview     TEXT NOT NULL,
    modified_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, secret_id)
) /* clustered */;

CREATE TABLE provider_configs (
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    config_id   TEXT NOT NULL,
    gateway_id  TEXT NOT NULL,
    provider    TEXT NOT NULL,
    alias       TEXT NOT NULL,
    is_default  INTEGER NOT NULL,
    secret_id   TEXT NOT NULL,
    rate_limit  BIGINT,
    rate_period BIGINT,
    created_at  BIGINT NOT NULL,
    modified_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, config_id)
) /* clustered */;
CREATE UNIQUE INDEX provider_configs_by_alias ON provider_configs (bucket, account_id, gateway_id, provider, alias);

CREATE TABLE custom_providers (
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    provider_id TEXT NOT NULL,
    slug        TEXT NOT NULL,
    config      TEXT NOT NULL,
    headers     BYTEA,
    created_at  BIGINT NOT NULL,
    modified_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, provider_id)
) /* clustered */;
CREATE UNIQUE INDEX custom_providers_by_slug ON custom_providers (bucket, account_id, slug);

CREATE TABLE custom_costs (
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    cost_id     TEXT NOT NULL,
    provider_id TEXT NOT NULL,
    config      TEXT NOT NULL,
    created_at  BIGINT NOT NULL,
    modified_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, cost_id)
) /* clustered */;

-- Datasets and evaluations.
CREATE TABLE datasets (
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    gateway_id  TEXT NOT NULL,
    dataset_id  TEXT NOT NULL,
    name        TEXT NOT NULL,
    enabled     INTEGER NOT NULL,
    filters     TEXT NOT NULL,
    created_at  BIGINT NOT NULL,
    modified_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, gateway_id, dataset_id)
) /* clustered */;
CREATE UNIQUE INDEX datasets_by_name ON datasets (bucket, account_id, gateway_id, name);
CREATE TABLE evaluations (
    bucket        INTEGER NOT NULL,
    account_id    TEXT NOT NULL,
    gateway_id    TEXT NOT NULL,
    evaluation_id TEXT NOT NULL,
    name          TEXT NOT NULL,
    datasets      TEXT NOT NULL,
    results       TEXT NOT NULL,
    total_logs    BIGINT NOT NULL,
    processed     INTEGER NOT NULL,
    created_at    BIGINT NOT NULL,
    modified_at   BIGINT NOT NULL,
    next_at       BIGINT,
    PRIMARY KEY (bucket, account_id, gateway_id, evaluation_id)
) /* clustered */;
CREATE UNIQUE INDEX evaluations_by_name ON evaluations (bucket, account_id, gateway_id, name);
CREATE INDEX evaluations_due ON evaluations (next_at) WHERE next_at IS NOT NULL;

-- Budgets: what holds count in, and the sums.
ALTER TABLE holds ADD COLUMN budgets TEXT;
ALTER TABLE holds ADD COLUMN counted BIGINT;
CREATE TABLE budgets (
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    scope      TEXT NOT NULL,
    start      BIGINT NOT NULL,
    spent      BIGINT NOT NULL,
    held       BIGINT NOT NULL,
    ends_at    BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, scope, start)
) /* clustered */;
CREATE INDEX budgets_ended ON budgets (bucket, ends_at);

-- Model aliases.
CREATE TABLE model_aliases (
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    gateway_id  TEXT NOT NULL,
    alias       TEXT NOT NULL,
    targets     TEXT NOT NULL,
    created_at  BIGINT NOT NULL,
    modified_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, gateway_id, alias)
) /* clustered */;

-- Access tokens may be limited to models.
ALTER TABLE access_tokens ADD COLUMN models TEXT;

-- Cached responses.
CREATE TABLE cached_responses (
    bucket       INTEGER NOT NULL,
    account_id   TEXT NOT NULL,
    gateway_id   TEXT NOT NULL,
    key          TEXT NOT NULL,
    size         BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    content_type TEXT NOT NULL,
    body         BYTEA NOT NULL,
    PRIMARY KEY (bucket, account_id, gateway_id, key)
) /* clustered */;
CREATE INDEX cached_responses_by_end ON cached_responses (bucket, account_id, expires_at);
CREATE TABLE cache_totals (
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    bytes      BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id)
) /* clustered */;
