-- From version 9 to 10.

-- The configuration's changes.
CREATE TABLE config_changes (
    version    BIGINT PRIMARY KEY,
    account_id TEXT NOT NULL
);

-- Secrets of gateways.
ALTER TABLE gateways ADD COLUMN sealed BYTEA;

-- Re-rating.
CREATE TABLE corrected_calls (
    bucket        INTEGER NOT NULL,
    account_id    TEXT NOT NULL,
    log_id        TEXT NOT NULL,
    rerate_id     TEXT NOT NULL,
    amount        BIGINT NOT NULL,
    charge        BIGINT NOT NULL,
    price_version TEXT NOT NULL,
    correction_id TEXT NOT NULL,
    at            BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, log_id, rerate_id)
) /* clustered */;
CREATE INDEX corrected_calls_of_rerate ON corrected_calls (bucket, account_id, rerate_id);
CREATE TABLE rerates (
    rerate_id   TEXT PRIMARY KEY,
    spec        TEXT NOT NULL,
    created_at  BIGINT NOT NULL,
    finished_at BIGINT
);

-- What-ifs.
CREATE TABLE what_ifs (
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    what_if_id TEXT NOT NULL,
    scenario   TEXT NOT NULL,
    state      TEXT NOT NULL,
    replayed   BIGINT NOT NULL,
    total      BIGINT NOT NULL,
    report     TEXT,
    started_at BIGINT NOT NULL,
    seen_at    BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id)
) /* clustered */;

-- Providers' bills.
CREATE TABLE provider_bills (
    provider    TEXT NOT NULL,
    source      TEXT NOT NULL,
    day         BIGINT NOT NULL,
    model       TEXT NOT NULL,
    amount      BIGINT,
    requests    BIGINT,
    tokens_in   BIGINT,
    tokens_out  BIGINT,
    imported_at BIGINT NOT NULL,
    PRIMARY KEY (provider, source, day, model)
) /* clustered */;

-- The cache: generations of a gateway's entries, and the sum of all. What was cached before has none.
ALTER TABLE gateways ADD COLUMN cache_generation BIGINT NOT NULL DEFAULT 0;
CREATE TABLE cache_leftovers (
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    gateway_id TEXT NOT NULL,
    PRIMARY KEY (bucket, account_id, gateway_id)
) /* clustered */;
CREATE TABLE cache_sum (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    bytes BIGINT NOT NULL
);
DELETE FROM cached_responses;
DELETE FROM cache_totals;
DROP INDEX cached_responses_by_end;
CREATE INDEX cached_responses_by_end ON cached_responses (bucket, account_id, expires_at) WHERE size >= 0;

-- Policies.
CREATE TABLE policies (
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    gateway_id  TEXT NOT NULL,
    policy_id   TEXT NOT NULL,
    live        TEXT,
    draft       TEXT,
    created_at  BIGINT NOT NULL,
    modified_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, gateway_id, policy_id)
) /* clustered */;

-- What accounts look for in their calls.
CREATE TABLE dlp_profiles (
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    profile_id  TEXT NOT NULL,
    config      TEXT NOT NULL,
    created_at  BIGINT NOT NULL,
    modified_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, profile_id)
) /* clustered */;

-- Calls in other systems.
ALTER TABLE calls ADD COLUMN push INTEGER;
ALTER TABLE calls ADD COLUMN meter INTEGER;
ALTER TABLE calls ADD COLUMN classify INTEGER;
CREATE INDEX calls_to_push ON calls (bucket, account_id, gateway_id, log_id) WHERE push = 1;
CREATE INDEX calls_to_meter ON calls (bucket, account_id, gateway_id, log_id) WHERE meter = 1;
CREATE INDEX calls_to_classify ON calls (bucket, account_id, gateway_id, log_id) WHERE classify = 1;

CREATE TABLE log_destinations (
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    config      TEXT NOT NULL,
    sealed      BYTEA NOT NULL,
    created_at  BIGINT NOT NULL,
    modified_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id)
) /* clustered */;

CREATE TABLE export_states (
    bucket        INTEGER NOT NULL,
    account_id    TEXT NOT NULL,
    gateway_id    TEXT NOT NULL,
    kind          TEXT NOT NULL,
    failures      INTEGER NOT NULL,
    failing_at    BIGINT,
    next_at       BIGINT NOT NULL,
    error         TEXT NOT NULL,
    delivered_at  BIGINT,
    batch         TEXT NOT NULL,
    PRIMARY KEY (bucket, account_id, gateway_id, kind)
) /* clustered */;

-- Time zones of accounts, alerts about spending.
ALTER TABLE balances ADD COLUMN limit_until BIGINT;
ALTER TABLE balances ADD COLUMN zones TEXT;
ALTER TABLE balances ADD COLUMN alerts_off INTEGER NOT NULL DEFAULT 0;
CREATE INDEX balances_limited ON balances (bucket, account_id) WHERE limit_amount IS NOT NULL;
ALTER TABLE budgets ADD COLUMN most BIGINT;

-- Custom domains.
CREATE TABLE custom_domains (
    hostname      TEXT NOT NULL,
    account_id    TEXT NOT NULL,
    gateway_id    TEXT NOT NULL,
    token         TEXT NOT NULL,
    status        TEXT NOT NULL,
    failing_since BIGINT,
    next_at       BIGINT,
    created_at    BIGINT NOT NULL,
    modified_at   BIGINT NOT NULL,
    PRIMARY KEY (hostname, account_id)
) /* clustered */;
CREATE UNIQUE INDEX custom_domains_active ON custom_domains (hostname) WHERE status = 'active';
CREATE INDEX custom_domains_of_account ON custom_domains (account_id);
CREATE INDEX custom_domains_due ON custom_domains (next_at) WHERE next_at IS NOT NULL;

-- When keys were last used.
CREATE TABLE last_uses (
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    kind       TEXT NOT NULL,
    key_id     TEXT NOT NULL,
    used_at    BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, kind, key_id)
) /* clustered */;

-- Keys that share the calls of a provider.
ALTER TABLE providers ADD COLUMN weight BIGINT NOT NULL DEFAULT 1;
ALTER TABLE provider_configs ADD COLUMN weight BIGINT;
CREATE TABLE provider_keys (
    provider   TEXT NOT NULL,
    name       TEXT NOT NULL,
    api_key    BYTEA NOT NULL,
    weight     BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (provider, name)
);

-- Rate limits of access tokens.
ALTER TABLE access_tokens ADD COLUMN rate_limit BIGINT;
ALTER TABLE access_tokens ADD COLUMN rate_period BIGINT;
ALTER TABLE access_tokens ADD COLUMN sliding INTEGER;

-- Access tokens that are limited to gateways. Existing tokens reach all gateways.
ALTER TABLE access_tokens ADD COLUMN gateways TEXT;

-- The pages: people with roles, and their sessions. Links to the billing page go on working; people who had it open must sign in again.
CREATE TABLE members (
    account_id TEXT NOT NULL,
    email      TEXT NOT NULL,
    role       TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    accepted_at BIGINT,
    PRIMARY KEY (account_id, email)
) /* clustered */;
CREATE INDEX members_by_email ON members (email);
CREATE TABLE sessions (
    hash         BYTEA PRIMARY KEY,
    kind         TEXT NOT NULL,
    session_id   TEXT NOT NULL UNIQUE,
    account_id   TEXT NOT NULL,
    email        TEXT,
    role         TEXT,
    operator     INTEGER NOT NULL,
    way          TEXT NOT NULL,
    vouched      INTEGER NOT NULL,
    created_at   BIGINT NOT NULL,
    confirmed_at BIGINT NOT NULL,
    seen_at      BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    client       TEXT NOT NULL,
    agent        TEXT NOT NULL
);
CREATE INDEX sessions_of_account ON sessions (account_id);
CREATE INDEX sessions_expiring ON sessions (expires_at);
INSERT INTO sessions (hash, kind, session_id, account_id, role, operator, way, vouched, created_at, confirmed_at, seen_at,
                      expires_at, client, agent)
    SELECT hash, kind, 'link ' || row_number() OVER (ORDER BY hash), account_id, 'owner', 0, 'link', 0, created_at,
           created_at, created_at, expires_at, '', ''
    FROM owner_sessions WHERE kind = 'link';
DROP TABLE owner_sessions;

CREATE TABLE passkeys (
    credential_id BYTEA PRIMARY KEY,
    passkey_id   TEXT NOT NULL UNIQUE,
    email        TEXT NOT NULL,
    name         TEXT NOT NULL,
    public_key   BYTEA NOT NULL,
    sign_count   BIGINT NOT NULL,
    created_at   BIGINT NOT NULL,
    used_at      BIGINT
);
CREATE INDEX passkeys_of_person ON passkeys (email);
CREATE TABLE sign_in_attempts (
    hash         BYTEA PRIMARY KEY,
    content      BYTEA NOT NULL,
    expires_at   BIGINT NOT NULL
);
CREATE INDEX sign_in_attempts_expiring ON sign_in_attempts (expires_at);

-- What providers keep for accounts, and work that goes on there.
CREATE TABLE kept_objects (
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    gateway_id TEXT NOT NULL,
    provider   TEXT NOT NULL,
    kind       TEXT NOT NULL,
    object_id  TEXT NOT NULL,
    key_id     TEXT NOT NULL,
    size       BIGINT NOT NULL,
    content    BYTEA,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    PRIMARY KEY (bucket, account_id, gateway_id, provider, kind, object_id)
) /* clustered */;
CREATE INDEX kept_objects_expiring ON kept_objects (bucket, expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE long_calls (
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    log_id      TEXT NOT NULL,
    gateway_id  TEXT NOT NULL,
    provider    TEXT NOT NULL,
    kind        TEXT NOT NULL,
    object_id   TEXT NOT NULL,
    key_id      TEXT NOT NULL,
    state       TEXT NOT NULL,
    work        BYTEA NOT NULL,
    created_at  BIGINT NOT NULL,
    ends_at     BIGINT NOT NULL,
    next_at     BIGINT NOT NULL,
    looks       BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, log_id)
) /* clustered */;
CREATE INDEX long_calls_due ON long_calls (bucket, next_at);
CREATE INDEX long_calls_of_object ON long_calls (bucket, account_id, provider, object_id);

-- Usage by gateway, token, user and metadata.
CREATE TABLE usage_values (
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    span       TEXT NOT NULL,
    dimension  TEXT NOT NULL,
    start      BIGINT NOT NULL,
    value      TEXT NOT NULL,
    calls      BIGINT NOT NULL,
    charge     BIGINT NOT NULL,
    tokens_in  BIGINT NOT NULL,
    tokens_out BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, span, dimension, start, value)
) /* clustered */;

CREATE TABLE usage_marks (
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    version    BIGINT NOT NULL,
    at         BIGINT NOT NULL,
    forgot_at  BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id)
) /* clustered */;

-- The audit log.
CREATE TABLE operator_acts (
    number     BIGINT PRIMARY KEY,
    at         BIGINT NOT NULL,
    who        TEXT NOT NULL,
    way        TEXT NOT NULL,
    act        TEXT NOT NULL,
    account_id TEXT NOT NULL,
    subject    TEXT NOT NULL,
    before     TEXT,
    after      TEXT,
    digest     TEXT NOT NULL
);
CREATE INDEX operator_acts_of_account ON operator_acts (account_id, number);
CREATE TABLE operator_acts_head (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    number BIGINT NOT NULL,
    digest TEXT NOT NULL
);

-- The operator's pages.
ALTER TABLE accounts ADD COLUMN frozen_at BIGINT;
UPDATE accounts SET name = substr(name, 1, 200) WHERE length(name) > 200;  -- longer ones do not fit into an index
CREATE INDEX accounts_by_name ON accounts (account_id, name);
ALTER TABLE findings ADD COLUMN accepted_cents BIGINT;
CREATE INDEX top_ups_latest ON top_ups (bucket, created_at);
CREATE INDEX refunds_latest ON refunds (bucket, created_at);
CREATE INDEX disputes_latest ON disputes (bucket, created_at);
CREATE INDEX disputes_open ON disputes (bucket, account_id, created_at) WHERE state IN ('inquiry', 'open');
CREATE INDEX findings_open ON findings (account_id) WHERE resolved_at IS NULL;
CREATE INDEX notices_latest ON notices (bucket, created_at, notice_id);
CREATE INDEX deliveries_given_up ON deliveries (bucket, account_id, notice_id) WHERE next_at IS NULL AND delivered_at IS NULL;

CREATE TABLE operator_reports (
    kind       TEXT PRIMARY KEY,
    report_id  TEXT NOT NULL,
    state      TEXT NOT NULL,
    who        TEXT NOT NULL,
    done       BIGINT NOT NULL,
    total      BIGINT NOT NULL,
    report     TEXT,
    started_at BIGINT NOT NULL,
    seen_at    BIGINT NOT NULL
);
