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
