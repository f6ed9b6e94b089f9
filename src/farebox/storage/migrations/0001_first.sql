-- The first schema. SQLite and PostgreSQL both read it.
-- Every key of an account's table begins with the account's bucket, so that one commit can stay on one database node.
-- `clustered` marks tables that SQLite keeps in primary key order (WITHOUT ROWID).
-- Amounts are nano-dollars; times are milliseconds since the Unix epoch.

-- Directory: what must be found or be unique without knowing the account. -------------------------------------------

CREATE TABLE accounts (
    account_id TEXT PRIMARY KEY,
    bucket     INTEGER NOT NULL,
    name       TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE access_tokens (
    token_id    TEXT PRIMARY KEY,
    account_id  TEXT NOT NULL,
    hash        BYTEA NOT NULL UNIQUE,   -- HMAC-SHA256 of the token under the pepper; the token itself is not stored
    name        TEXT NOT NULL,
    permissions TEXT NOT NULL,           -- JSON array of permission names
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT,
    revoked_at  BIGINT
);
CREATE INDEX access_tokens_of_account ON access_tokens (account_id);

CREATE TABLE users (
    email      TEXT PRIMARY KEY,
    key_hash   BYTEA NOT NULL,           -- of the key sent as X-Auth-Key
    created_at BIGINT NOT NULL
);

CREATE TABLE memberships (
    email      TEXT NOT NULL,
    account_id TEXT NOT NULL,
    PRIMARY KEY (email, account_id)
) /* clustered */;

-- The operator's configuration. ------------------------------------------------------------------------------------

CREATE TABLE providers (
    name       TEXT PRIMARY KEY,
    base_url   TEXT NOT NULL,
    api_key    BYTEA,                    -- AES-GCM, bound to the provider's name
    updated_at BIGINT NOT NULL
);

CREATE TABLE prices (
    price_id   TEXT PRIMARY KEY,
    provider   TEXT NOT NULL,
    model      TEXT NOT NULL,
    account_id TEXT,
    rates      TEXT NOT NULL,            -- JSON object: price key to US dollars as text
    output_max BIGINT,
    valid_from BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE markups (
    markup_id         TEXT PRIMARY KEY,
    account_id        TEXT,
    provider          TEXT,
    model             TEXT,
    parts_per_million BIGINT NOT NULL,
    valid_from        BIGINT NOT NULL,
    created_at        BIGINT NOT NULL
);

CREATE TABLE config_version (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    version BIGINT NOT NULL
);
INSERT INTO config_version (one, version) VALUES (1, 1);

-- The ledger. ------------------------------------------------------------------------------------------------------

CREATE TABLE balances (
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    posted     BIGINT NOT NULL DEFAULT 0,
    held       BIGINT NOT NULL DEFAULT 0,
    version    BIGINT NOT NULL DEFAULT 0,  -- number of the account's latest transfer
    PRIMARY KEY (bucket, account_id),
    CHECK (held >= 0 AND posted >= held)
) /* clustered */;

CREATE TABLE transfers (
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    version     BIGINT NOT NULL,           -- 1, 2, 3 … per account, no gaps
    transfer_id TEXT NOT NULL,             -- derived from the cause: charge:…, top_up:…
    kind        TEXT NOT NULL,
    from_book   TEXT NOT NULL,
    to_book     TEXT NOT NULL,
    amount      BIGINT NOT NULL CHECK (amount > 0),
    lot_id      TEXT,                      -- the lot that was filled or drawn
    at          BIGINT NOT NULL,
    note        TEXT,
    PRIMARY KEY (bucket, account_id, version)
) /* clustered */;
CREATE UNIQUE INDEX transfers_by_id ON transfers (bucket, account_id, transfer_id);

CREATE TABLE lots (
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    lot_id     TEXT NOT NULL,
    book       TEXT NOT NULL,
    amount     BIGINT NOT NULL,
    remaining  BIGINT NOT NULL CHECK (remaining >= 0 AND remaining <= amount),
    priority   INTEGER NOT NULL,
    expires_at BIGINT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, lot_id)
) /* clustered */;
CREATE INDEX lots_unspent ON lots (bucket, account_id) WHERE remaining > 0;
CREATE INDEX lots_expiring ON lots (expires_at) WHERE remaining > 0 AND expires_at IS NOT NULL;

CREATE TABLE holds (
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    hold_id    TEXT NOT NULL,
    asked      BIGINT NOT NULL,            -- the amount it was opened with
    amount     BIGINT NOT NULL,            -- the amount it keeps: `asked`, or more after an extension
    state      TEXT NOT NULL,              -- ledger.books.HOLD_STATES
    charge     BIGINT,                     -- settled: what was to be charged
    written_off BIGINT,                    -- settled: the part of the charge that the account could not cover
    owner      TEXT NOT NULL,              -- the process that will resolve it
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, hold_id)
) /* clustered */;
CREATE INDEX holds_open ON holds (bucket, account_id, expires_at) WHERE state = 'open';

-- What accounts configure, and what their calls left behind. -----------------------------------------------------------

CREATE TABLE gateways (
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    gateway_id  TEXT NOT NULL,
    config      TEXT NOT NULL,             -- JSON, see storage.gateways
    created_at  BIGINT NOT NULL,
    modified_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, gateway_id)
) /* clustered */;

CREATE TABLE calls (
    bucket       INTEGER NOT NULL,
    account_id   TEXT NOT NULL,
    log_id       TEXT NOT NULL,            -- UUIDv7: ordered by time
    gateway_id   TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    provider     TEXT NOT NULL,
    model        TEXT NOT NULL,
    success      INTEGER NOT NULL,
    status_code  INTEGER NOT NULL,
    duration     BIGINT NOT NULL,          -- milliseconds
    tokens_in    BIGINT,
    tokens_out   BIGINT,
    cost         BIGINT NOT NULL,          -- nano-dollars, rounded up
    charge       BIGINT NOT NULL,
    detail       TEXT NOT NULL,            -- JSON: the log row's other fields
    receipt      TEXT,                     -- JSON: pricing.receipt.Receipt; outlives the log row
    logged       INTEGER NOT NULL,         -- 0 where the gateway or the caller asked for no log: the receipt stays
    PRIMARY KEY (bucket, account_id, log_id)
) /* clustered */;
CREATE INDEX calls_of_gateway ON calls (bucket, account_id, gateway_id, log_id) WHERE logged = 1;

CREATE TABLE call_bodies (
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    log_id     TEXT NOT NULL,
    request    BYTEA,
    response   BYTEA,
    PRIMARY KEY (bucket, account_id, log_id)
) /* clustered */;

CREATE TABLE usage_hours (
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    hour       BIGINT NOT NULL,            -- milliseconds, start of the hour in UTC
    provider   TEXT NOT NULL,
    model      TEXT NOT NULL,
    calls      BIGINT NOT NULL,
    charge     BIGINT NOT NULL,
    tokens_in  BIGINT NOT NULL,
    tokens_out BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, hour, provider, model)
) /* clustered */;
