-- From version 9 to 10.

-- The configuration's changes.
CREATE TABLE config_changes (
    version    BIGINT PRIMARY KEY,
    account_id TEXT NOT NULL
);

-- Secrets of gateways.
ALTER TABLE gateways ADD COLUMN sealed BYTEA;
