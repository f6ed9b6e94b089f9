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
