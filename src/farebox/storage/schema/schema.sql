-- The data model: this file makes an empty database what this release needs. SQLite and PostgreSQL both read it.
--
-- Units. Unless a comment says otherwise:
--   …_at      a moment, in milliseconds since 1970-01-01T00:00:00Z. No column has a time zone or local time in it.
--   …_cents   US cents.
--   Every other BIGINT says in its comment what it counts; amounts of credit are nano-dollars (10⁻⁹ US dollars).
--   INTEGER columns are counts, flags (0 or 1), numbers of buckets, and the month and year printed on a card.
--
-- Keys. A row that belongs to one account is in a table whose key begins with `bucket` (accounts.bucket) and
-- `account_id`, so that on Citus one commit stays on one node. The other tables have no bucket: what must be found, or
-- must be unique, without knowing the account. storage/postgres/distribute.sql places every table on Citus. There are
-- no foreign keys: they would cost a look-up in each commit of a call, and `farebox check` compares the rows instead.
--
-- `clustered` marks tables that SQLite keeps in the order of their primary key (WITHOUT ROWID). Columns that were added
-- to a table later come last, as in a database that had the table before.

-- Accounts, and who may act for them. --------------------------------------------------------------------------------

CREATE TABLE accounts (                   -- the tenants; the only place that says which bucket an account is in
    account_id TEXT PRIMARY KEY,
    bucket     INTEGER NOT NULL,          -- storage.buckets; always 0 where there is one database
    name       TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    frozen_at  BIGINT                     -- null: not frozen; otherwise since when it can make no calls and no purchases
);
CREATE INDEX accounts_of_bucket ON accounts (bucket);
CREATE INDEX accounts_by_name ON accounts (account_id, name);  -- a search reads only these, of many accounts

CREATE TABLE access_tokens (              -- what callers and control-plane clients authenticate with
    token_id    TEXT PRIMARY KEY,
    account_id  TEXT NOT NULL,
    hash        BYTEA NOT NULL UNIQUE,    -- HMAC-SHA256 of the token under the pepper; the token itself is not stored
    name        TEXT NOT NULL,
    permissions TEXT NOT NULL,            -- JSON array of permission names
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT,                   -- null: never
    revoked_at  BIGINT,
    models      TEXT,                     -- JSON array of provider/model, or provider/*, that it may call; null: all
    rate_limit  BIGINT,                   -- number of calls per window; null: no limit
    rate_period BIGINT,                   -- number of seconds of the window
    sliding     INTEGER,                  -- 1: the window slides; 0: windows follow one another
    gateways    TEXT                      -- JSON array of the gateways that it reaches; null: all
);
CREATE INDEX access_tokens_of_account ON access_tokens (account_id);  -- to list an account's tokens

CREATE TABLE users (                      -- people who use the control plane by e-mail and key (X-Auth-Email)
    email      TEXT PRIMARY KEY,
    key_hash   BYTEA NOT NULL,            -- HMAC-SHA256 of the key sent as X-Auth-Key
    created_at BIGINT NOT NULL
);

CREATE TABLE memberships (                -- which accounts a user may act for
    email      TEXT NOT NULL,
    account_id TEXT NOT NULL,
    PRIMARY KEY (email, account_id)
) /* clustered */;

CREATE TABLE members (                    -- people who may open an account's pages
    account_id TEXT NOT NULL,             -- empty: the operator's pages, for operators
    email      TEXT NOT NULL,             -- in lower case
    role       TEXT NOT NULL,             -- model.Role
    created_at BIGINT NOT NULL,
    accepted_at BIGINT,                   -- null: invited by an owner, and has not accepted it: the role is not theirs yet
    PRIMARY KEY (account_id, email)
) /* clustered */;
CREATE INDEX members_by_email ON members (email);  -- which accounts a person may open

CREATE TABLE sessions (                   -- links that sign a person in, and browsers that are signed in
    hash         BYTEA PRIMARY KEY,       -- keyed hash of the secret in the link or cookie
    kind         TEXT NOT NULL,           -- link, session
    session_id   TEXT NOT NULL UNIQUE,    -- what lists call it; no secret
    account_id   TEXT NOT NULL,           -- whose pages it shows; empty: only the operator's
    email        TEXT,                    -- whose role is in `members`; null: the person who was given the link
    role         TEXT,                    -- the role on the account, where there is no e-mail address; null: none
    operator     INTEGER NOT NULL,        -- 1: may open the operator's pages, where there is no e-mail address
    way          TEXT NOT NULL,           -- how one signs in: link, email, passkey, oidc
    vouched      INTEGER NOT NULL,        -- 1: only an owner has vouched for the address: valid on this account only
    created_at   BIGINT NOT NULL,
    confirmed_at BIGINT NOT NULL,         -- when the person last proved their identity
    seen_at      BIGINT NOT NULL,         -- when a page was last opened, to the minute
    expires_at   BIGINT NOT NULL,
    client       TEXT NOT NULL,           -- address that signed in
    agent        TEXT NOT NULL            -- the browser, as it calls itself
);
CREATE INDEX sessions_of_account ON sessions (account_id);  -- to list them
CREATE INDEX sessions_expiring ON sessions (expires_at);  -- those that are over are removed

CREATE TABLE passkeys (                   -- public keys by which people sign in
    credential_id BYTEA PRIMARY KEY,      -- what the authenticator calls it
    passkey_id   TEXT NOT NULL UNIQUE,    -- what lists call it; no secret
    email        TEXT NOT NULL,           -- whose it is
    name         TEXT NOT NULL,           -- as they call it
    public_key   BYTEA NOT NULL,          -- COSE
    sign_count   BIGINT NOT NULL,         -- a number, larger each time; 0 where the authenticator does not count
    created_at   BIGINT NOT NULL,
    used_at      BIGINT                   -- null: never
);
CREATE INDEX passkeys_of_person ON passkeys (email);  -- to list them

CREATE TABLE sign_in_attempts (           -- attempts that a browser must complete, once: a passkey's challenge, an OIDC login
    hash         BYTEA PRIMARY KEY,       -- keyed hash of the secret in the browser's cookie
    content      BYTEA NOT NULL,          -- sealed JSON
    expires_at   BIGINT NOT NULL
);
CREATE INDEX sign_in_attempts_expiring ON sign_in_attempts (expires_at);  -- those that are over are removed

-- The operator's configuration. Every write increments config_version. -----------------------------------------------

CREATE TABLE providers (                  -- base URL and key of each provider the operator has set up
    name       TEXT PRIMARY KEY,
    base_url   TEXT NOT NULL,
    api_key    BYTEA,                     -- AES-GCM, bound to the provider's name
    updated_at BIGINT NOT NULL,
    weight     BIGINT NOT NULL DEFAULT 1  -- a number: the key's share of calls, next to provider_keys'
);

CREATE TABLE provider_keys (              -- further keys of the operator's, that share the calls of a provider
    provider   TEXT NOT NULL,
    name       TEXT NOT NULL,
    api_key    BYTEA NOT NULL,            -- AES-GCM, bound to the provider and the name
    weight     BIGINT NOT NULL,           -- a number: its share of the calls
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (provider, name)
);

CREATE TABLE prices (                     -- the operator's own prices; never changed: a later one replaces an earlier
    price_id   TEXT PRIMARY KEY,
    provider   TEXT NOT NULL,
    model      TEXT NOT NULL,
    account_id TEXT,                      -- null: for every account
    rates      TEXT NOT NULL,             -- JSON object: price key to US dollars as text
    output_max BIGINT,                    -- tokens that a response can have at most; null: not known
    valid_from BIGINT NOT NULL,           -- milliseconds since 1970-01-01T00:00:00Z
    created_at BIGINT NOT NULL
);

CREATE TABLE price_supplements (          -- prices from public sources that the operator loaded; the latest counts
    loaded_at BIGINT PRIMARY KEY,         -- older ones stay: they explain old receipts
    text      TEXT NOT NULL               -- JSON: pricing.supplement; empty: the shipped supplement again
);

CREATE TABLE markups (                    -- what is added to a cost; the most specific that is valid counts
    markup_id         TEXT PRIMARY KEY,
    account_id        TEXT,               -- null: for every account; provider and model likewise
    provider          TEXT,
    model             TEXT,
    parts_per_million BIGINT NOT NULL,    -- of the cost: 50000 is 5 %
    valid_from        BIGINT NOT NULL,    -- milliseconds since 1970-01-01T00:00:00Z
    created_at        BIGINT NOT NULL
);

CREATE TABLE tax_rates (                  -- what tax a purchase has, by the customer's country
    country           TEXT PRIMARY KEY,   -- ISO 3166-1 alpha-2; '*' for every other country
    name              TEXT NOT NULL,      -- as invoices show it: VAT, GST…
    parts_per_million BIGINT NOT NULL,    -- of the net amount: 190000 is 19 %
    reverse_charge    INTEGER NOT NULL,   -- 1: a customer with a tax ID there owes the tax themselves
    updated_at        BIGINT NOT NULL
);

CREATE TABLE config_version (             -- one row: processes compare it to know when their caches are out of date
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    version BIGINT NOT NULL               -- number of writes of configuration, tokens and gateways
);
INSERT INTO config_version (one, version) VALUES (1, 1);

CREATE TABLE config_changes (             -- what the latest of these writes changed (storage.config)
    version    BIGINT PRIMARY KEY,        -- number of the write
    account_id TEXT NOT NULL              -- empty: what concerns all accounts
);

CREATE TABLE installation (               -- one row: marks what this installation creates at the processor
    one             INTEGER PRIMARY KEY CHECK (one = 1),
    installation_id TEXT NOT NULL
);

CREATE TABLE operator_acts (              -- the audit log: every action of an operator; never changed or deleted
    number     BIGINT PRIMARY KEY,        -- 1, 2, 3 … without gaps
    at         BIGINT NOT NULL,           -- milliseconds since 1970-01-01T00:00:00Z
    who        TEXT NOT NULL,             -- e-mail address, session, or user@host
    way        TEXT NOT NULL,             -- page, command
    act        TEXT NOT NULL,             -- storage.operator_actions.ActionName
    account_id TEXT NOT NULL,             -- empty: it concerns no account, or all
    subject    TEXT NOT NULL,             -- what it was done to
    before     TEXT,                      -- JSON, without secrets; null: there was nothing
    after      TEXT,                      -- JSON, without secrets; null: there is nothing
    digest     TEXT NOT NULL              -- of this row and the digest of the one before
);
CREATE INDEX operator_acts_of_account ON operator_acts (account_id, number);  -- what was done to an account

CREATE TABLE operator_acts_head (         -- one row: the latest action, so that missing rows at the end are noticed
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    number BIGINT NOT NULL,               -- the number of the action
    digest TEXT NOT NULL                  -- its digest
);

CREATE TABLE operator_reports (           -- reports that take long, the latest of each kind (operator.long_reports)
    kind       TEXT PRIMARY KEY,          -- check, margins
    report_id  TEXT NOT NULL,
    state      TEXT NOT NULL,             -- running, done, failed
    who        TEXT NOT NULL,             -- the operator who asked for it
    done       BIGINT NOT NULL,           -- number of accounts so far
    total      BIGINT NOT NULL,           -- number of accounts in all
    report     TEXT,                      -- JSON; failed: why; null: it is running
    started_at BIGINT NOT NULL,
    seen_at    BIGINT NOT NULL            -- renewed every second; if long past while running: its process is gone
);

-- The ledger: src/farebox/ledger/README.md has its rules. All amounts are nano-dollars. ------------------------------

CREATE TABLE balances (                   -- one row per account: locked by whatever moves its money
    bucket         INTEGER NOT NULL,
    account_id     TEXT NOT NULL,
    posted         BIGINT NOT NULL DEFAULT 0,  -- nano-dollars: the sum of the account's transfers
    held           BIGINT NOT NULL DEFAULT 0,  -- nano-dollars: the sum of its open holds
    version        BIGINT NOT NULL DEFAULT 0,  -- number of the account's latest transfer
    owed           BIGINT NOT NULL DEFAULT 0,  -- nano-dollars taken back beyond what was left; the next money in pays it
    top_up_below   BIGINT,                     -- nano-dollars: `posted` below this requests an auto top-up; null: not armed
    low_below      BIGINT,                     -- nano-dollars: `posted` below this notifies the owner; null: never
    low_told       INTEGER NOT NULL DEFAULT 0, -- 1: the owner was notified, and `posted` has not been above since
    limit_amount   BIGINT,                     -- nano-dollars: the spending limit; null: none
    limit_duration TEXT,                       -- daily, weekly, monthly
    limit_strategy TEXT,                       -- fixed, sliding
    limit_from     BIGINT,                     -- milliseconds UTC: first hour in limit_spent; null: must be summed again
    limit_spent    BIGINT NOT NULL DEFAULT 0,  -- nano-dollars: sum of the account's usage_hours from limit_from on
    limit_until    BIGINT,                     -- milliseconds UTC: end of its window; null: that of the UTC calendar
    zones          TEXT,                       -- JSON: [[since, IANA name], …] of its time zones, the latest last; null: UTC
    alerts_off     INTEGER NOT NULL DEFAULT 0, -- 1: the owner wants no alerts about spending
    PRIMARY KEY (bucket, account_id),
    CHECK (held >= 0 AND posted >= held)
) /* clustered */;

CREATE INDEX balances_limited ON balances (bucket, account_id) WHERE limit_amount IS NOT NULL;  -- for alerts

CREATE TABLE transfers (                  -- every movement of money between two books; never changed or deleted
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    version     BIGINT NOT NULL,          -- 1, 2, 3 … per account, without gaps
    transfer_id TEXT NOT NULL,            -- derived from the cause: charge:…, top_up:…
    kind        TEXT NOT NULL,            -- ledger.books.TRANSFERS
    from_book   TEXT NOT NULL,
    to_book     TEXT NOT NULL,
    amount      BIGINT NOT NULL CHECK (amount > 0),  -- nano-dollars
    lot_id      TEXT,                     -- the lot that was filled or drawn
    at          BIGINT NOT NULL,          -- milliseconds since 1970-01-01T00:00:00Z
    note        TEXT,
    PRIMARY KEY (bucket, account_id, version)
) /* clustered */;
-- No cause moves money twice. Charges, which are nearly all transfers, are left out: a hold is settled only once, and
-- writes its own.
CREATE UNIQUE INDEX transfers_by_id ON transfers (bucket, account_id, transfer_id) WHERE kind <> 'charge';

CREATE TABLE lots (                       -- what is left of each top-up, grant or return
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    lot_id     TEXT NOT NULL,
    book       TEXT NOT NULL,             -- granted, credit
    amount     BIGINT NOT NULL,           -- nano-dollars that filled it
    remaining  BIGINT NOT NULL CHECK (remaining >= 0 AND remaining <= amount),  -- nano-dollars
    priority   INTEGER NOT NULL,          -- lower is spent first
    expires_at BIGINT,                    -- null: never
    created_at BIGINT NOT NULL,
    spent      INTEGER NOT NULL DEFAULT 0,-- 1: nothing remains. Unlike `remaining` it changes once, so indexes name it
    PRIMARY KEY (bucket, account_id, lot_id)
) /* clustered */;
CREATE INDEX lots_unspent ON lots (bucket, account_id) WHERE spent = 0;  -- what a charge draws on
CREATE INDEX lots_expiring ON lots (expires_at) WHERE spent = 0 AND expires_at IS NOT NULL;  -- the periodic job's

CREATE TABLE holds (                      -- money reserved until a call, or an application's work, ends
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    hold_id     TEXT NOT NULL,            -- the call's log_id; app:… for an application's
    asked       BIGINT NOT NULL,          -- nano-dollars it was opened with
    amount      BIGINT NOT NULL,          -- nano-dollars it reserves: `asked`, or more after an extension
    state       TEXT NOT NULL,            -- ledger.books.HOLD_STATES
    charge      BIGINT,                   -- nano-dollars; settled: what was to be charged
    written_off BIGINT,                   -- nano-dollars; settled: the part of it that the account could not cover
    owner       TEXT NOT NULL,            -- the process that will end it (instances.instance_id)
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL,
    budgets     TEXT,                     -- JSON: [[scope, start], …] of the budgets it counts in; null: in none
    counted     BIGINT,                   -- nano-dollars; open: reserved in each of them; settled: what counts there
    PRIMARY KEY (bucket, account_id, hold_id)
) /* clustered */;
CREATE INDEX holds_open ON holds (bucket, account_id, expires_at) WHERE state = 'open';  -- few, among all that have ended

CREATE TABLE budgets (                    -- what holds and charges add up to in a slot of a budget (ledger.budgets)
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    scope      TEXT NOT NULL,             -- what is counted together, and the length of its window
    start      BIGINT NOT NULL,           -- milliseconds since 1970-01-01T00:00:00Z: start of the slot
    spent      BIGINT NOT NULL,           -- nano-dollars: what settled holds of the slot count
    held       BIGINT NOT NULL,           -- nano-dollars: what open holds of the slot reserve
    ends_at    BIGINT NOT NULL,           -- from then on, no window contains the slot
    most       BIGINT,                    -- nano-dollars: the budget's limit, as the latest hold of the slot knew it
    PRIMARY KEY (bucket, account_id, scope, start)
) /* clustered */;
CREATE INDEX budgets_ended ON budgets (bucket, ends_at);  -- the periodic job's

CREATE TABLE app_holds (                  -- what an application said about a hold of its own; the hold is in `holds`
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    hold_id    TEXT NOT NULL,             -- as in `holds`: app:…
    label      TEXT NOT NULL,             -- what the application calls it
    provider   TEXT,                      -- settled: what the charge is counted under in usage_hours
    model      TEXT,
    note       TEXT,
    settled_at BIGINT,                    -- and in which hour
    PRIMARY KEY (bucket, account_id, hold_id)
) /* clustered */;

CREATE TABLE lanes (                      -- which process may send batches to which bucket; empty on SQLite
    bucket      INTEGER NOT NULL,
    instance_id TEXT NOT NULL,
    epoch       BIGINT NOT NULL,          -- number of its connection: a batch under another creates no holds (ledger.lanes)
    PRIMARY KEY (bucket, instance_id)
) /* clustered */;

-- Sums of transfers that reading need not compute again. They can always be recomputed, and are written when they are
-- read, never in the commit of a call.

CREATE TABLE transfer_days (              -- an account's transfers by day, up to the version in transfer_marks
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    day        BIGINT NOT NULL,           -- milliseconds since 1970-01-01T00:00:00Z: start of the day in UTC
    kind       TEXT NOT NULL,
    from_book  TEXT NOT NULL,
    to_book    TEXT NOT NULL,
    amount     BIGINT NOT NULL,           -- nano-dollars
    PRIMARY KEY (bucket, account_id, day, kind, from_book, to_book)
) /* clustered */;

CREATE TABLE transfer_marks (             -- how far transfer_days has come
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    version    BIGINT NOT NULL,           -- number of the latest transfer that is in transfer_days
    PRIMARY KEY (bucket, account_id)
) /* clustered */;

CREATE TABLE usage_values (               -- charged calls by what they were made with, up to the version in usage_marks
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    span       TEXT NOT NULL,             -- hour, day: how long `start` stands for
    dimension  TEXT NOT NULL,             -- gateway, token, user, metadata (of its keys), metadata.KEY
    start      BIGINT NOT NULL,           -- milliseconds since 1970-01-01T00:00:00Z: start of the hour or day in UTC
    value      TEXT NOT NULL,             -- empty: calls without one; storage.usage_values.OTHER: those beyond the bound
    calls      BIGINT NOT NULL,           -- number of calls
    charge     BIGINT NOT NULL,           -- nano-dollars
    tokens_in  BIGINT NOT NULL,           -- tokens
    tokens_out BIGINT NOT NULL,           -- tokens
    PRIMARY KEY (bucket, account_id, span, dimension, start, value)
) /* clustered */;

CREATE TABLE usage_marks (                -- how far usage_values has come
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    version    BIGINT NOT NULL,           -- number of the latest transfer that is in usage_values
    at         BIGINT NOT NULL,           -- milliseconds since 1970-01-01T00:00:00Z: when it was made
    forgot_at  BIGINT NOT NULL,           -- when old sums were last forgotten
    PRIMARY KEY (bucket, account_id)
) /* clustered */;

-- Gateways, and what calls left behind. -------------------------------------------------------------------------------

CREATE TABLE gateways (                   -- an account's named configurations: logging, rate limit, CORS
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    gateway_id  TEXT NOT NULL,
    config      TEXT NOT NULL,            -- JSON, see storage.gateways
    created_at  BIGINT NOT NULL,
    modified_at BIGINT NOT NULL,
    sealed      BYTEA,                    -- AES-GCM, bound to the gateway: the secrets of its configuration; null: none
    cache_generation BIGINT NOT NULL DEFAULT 0,  -- number of the write of configuration that emptied its cache last
    PRIMARY KEY (bucket, account_id, gateway_id)
) /* clustered */;

CREATE TABLE routes (                     -- dynamic routes of a gateway: `model: "dynamic/NAME"`
    bucket        INTEGER NOT NULL,
    account_id    TEXT NOT NULL,
    gateway_id    TEXT NOT NULL,
    route_id      TEXT NOT NULL,          -- UUIDv7
    name          TEXT NOT NULL,
    version_id    TEXT NOT NULL,          -- the version that serves
    deployment_id TEXT NOT NULL,          -- the deployment by which it does
    created_at    BIGINT NOT NULL,
    modified_at   BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, gateway_id, route_id)
) /* clustered */;
CREATE UNIQUE INDEX routes_by_name ON routes (bucket, account_id, gateway_id, name);  -- a call names its route

CREATE TABLE route_versions (             -- what a route consists of; never changed
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    gateway_id TEXT NOT NULL,
    route_id   TEXT NOT NULL,
    version_id TEXT NOT NULL,             -- UUIDv7: ordered by time
    elements   TEXT NOT NULL,             -- JSON array: farebox.dynamic_routes.elements
    valid      INTEGER NOT NULL,          -- 0: a draft, which cannot be called
    created_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, gateway_id, route_id, version_id)
) /* clustered */;

CREATE TABLE route_deployments (          -- which version began to serve when; the latest 500 of a route
    bucket        INTEGER NOT NULL,
    account_id    TEXT NOT NULL,
    gateway_id    TEXT NOT NULL,
    route_id      TEXT NOT NULL,
    deployment_id TEXT NOT NULL,          -- UUIDv7: ordered by time
    version_id    TEXT NOT NULL,
    created_at    BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, gateway_id, route_id, deployment_id)
) /* clustered */;

CREATE TABLE model_aliases (              -- an account's own names for models
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    gateway_id  TEXT NOT NULL,            -- empty: for all gateways of the account
    alias       TEXT NOT NULL,
    targets     TEXT NOT NULL,            -- JSON array of provider/model, in the order in which they are tried
    created_at  BIGINT NOT NULL,
    modified_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, gateway_id, alias)
) /* clustered */;

CREATE TABLE policies (                   -- who may call which models of a gateway, and for how much
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    gateway_id  TEXT NOT NULL,
    policy_id   TEXT NOT NULL,            -- UUIDv7
    live        TEXT,                     -- JSON: farebox.policies.document; null: a draft that never was in force
    draft       TEXT,                     -- the same, not in force yet; null: none
    created_at  BIGINT NOT NULL,
    modified_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, gateway_id, policy_id)
) /* clustered */;

CREATE TABLE dlp_profiles (               -- an account's own DLP profiles, besides the predefined ones
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    profile_id  TEXT NOT NULL,
    config      TEXT NOT NULL,            -- JSON: its name, and its keywords and regular expressions
    created_at  BIGINT NOT NULL,
    modified_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, profile_id)
) /* clustered */;

CREATE TABLE custom_domains (             -- host names that stand for a gateway; found without knowing the account
    hostname      TEXT NOT NULL,
    account_id    TEXT NOT NULL,
    gateway_id    TEXT NOT NULL,
    token         TEXT NOT NULL,          -- content of the TXT record that proves ownership; no secret
    status        TEXT NOT NULL,          -- storage.custom_domains.Status
    failing_since BIGINT,                 -- active: since when the record has been missing; milliseconds since 1970-01-01T00:00:00Z
    next_at       BIGINT,                 -- when the record is looked for; null: no more
    created_at    BIGINT NOT NULL,
    modified_at   BIGINT NOT NULL,
    PRIMARY KEY (hostname, account_id)
) /* clustered */;
CREATE UNIQUE INDEX custom_domains_active ON custom_domains (hostname) WHERE status = 'active';  -- it serves for one account
CREATE INDEX custom_domains_of_account ON custom_domains (account_id);  -- an account's list
CREATE INDEX custom_domains_due ON custom_domains (next_at) WHERE next_at IS NOT NULL;  -- the worker's queue

CREATE TABLE datasets (                   -- filters over the log of a gateway, by name
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    gateway_id  TEXT NOT NULL,
    dataset_id  TEXT NOT NULL,          -- UUIDv7: ordered by time
    name        TEXT NOT NULL,
    enabled     INTEGER NOT NULL,          -- 1: evaluations may use it
    filters     TEXT NOT NULL,              -- JSON array: calls.log_filters.Filter
    created_at  BIGINT NOT NULL,
    modified_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, gateway_id, dataset_id)
) /* clustered */;
CREATE UNIQUE INDEX datasets_by_name ON datasets (bucket, account_id, gateway_id, name);  -- a name is taken once

CREATE TABLE evaluations (                -- what is computed over the logs of datasets, and the results
    bucket        INTEGER NOT NULL,
    account_id    TEXT NOT NULL,
    gateway_id    TEXT NOT NULL,
    evaluation_id TEXT NOT NULL,        -- UUIDv7: ordered by time
    name          TEXT NOT NULL,
    datasets      TEXT NOT NULL,             -- JSON array: the datasets as they were when it was created
    results       TEXT NOT NULL,             -- JSON array: calls.evaluations.Result
    total_logs    BIGINT NOT NULL,           -- number of logs that were found
    processed     INTEGER NOT NULL,          -- 1: the results are there
    created_at    BIGINT NOT NULL,
    modified_at   BIGINT NOT NULL,
    next_at       BIGINT,                 -- when a worker may take it up; null: done
    PRIMARY KEY (bucket, account_id, gateway_id, evaluation_id)
) /* clustered */;
CREATE UNIQUE INDEX evaluations_by_name ON evaluations (bucket, account_id, gateway_id, name);  -- a name is taken once
CREATE INDEX evaluations_due ON evaluations (next_at) WHERE next_at IS NOT NULL;  -- the workers' queue

CREATE TABLE secrets (                    -- an account's own keys at providers
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    secret_id   TEXT NOT NULL,
    provider    TEXT NOT NULL,            -- the one provider that it may be sent to, as in provider_configs
    store_id    TEXT NOT NULL,            -- the `store_id` of the gateways that may use it
    sealed      BYTEA NOT NULL,           -- AES-GCM, bound to the account and the secret's ID
    preview     TEXT NOT NULL,            -- what may be shown of it
    modified_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, secret_id)
) /* clustered */;

CREATE TABLE provider_configs (           -- which of them a gateway calls a provider with
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    config_id   TEXT NOT NULL,
    gateway_id  TEXT NOT NULL,
    provider    TEXT NOT NULL,            -- the provider's slug; `custom-…` for one of custom_providers
    alias       TEXT NOT NULL,
    is_default  INTEGER NOT NULL,         -- 1: for calls that name no alias
    secret_id   TEXT NOT NULL,
    rate_limit  BIGINT,                   -- number of calls per window; null: no limit
    rate_period BIGINT,                   -- number of seconds of the window
    created_at  BIGINT NOT NULL,
    modified_at BIGINT NOT NULL,
    weight      BIGINT,                   -- a number: its share of the calls that name no alias; null: none
    PRIMARY KEY (bucket, account_id, config_id)
) /* clustered */;
CREATE UNIQUE INDEX provider_configs_by_alias ON provider_configs (bucket, account_id, gateway_id, provider, alias);

CREATE TABLE last_uses (                  -- when keys were last used, as of a minute ago
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,             -- empty: the operator's
    kind       TEXT NOT NULL,             -- token, provider_config, provider
    key_id     TEXT NOT NULL,             -- the token's, the config's, the provider's slug (`slug/name` for further keys)
    used_at    BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, kind, key_id)
) /* clustered */;

CREATE TABLE custom_providers (           -- an account's own providers
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    provider_id TEXT NOT NULL,
    slug        TEXT NOT NULL,            -- without `custom-`
    config      TEXT NOT NULL,            -- JSON, see storage.custom_providers
    headers     BYTEA,                    -- AES-GCM, bound to the account and the provider's ID: a JSON object
    created_at  BIGINT NOT NULL,
    modified_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, provider_id)
) /* clustered */;
CREATE UNIQUE INDEX custom_providers_by_slug ON custom_providers (bucket, account_id, slug);

CREATE TABLE custom_costs (               -- what the models of those cost, for the log
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    cost_id     TEXT NOT NULL,
    provider_id TEXT NOT NULL,
    config      TEXT NOT NULL,            -- JSON, see storage.custom_providers
    created_at  BIGINT NOT NULL,
    modified_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, cost_id)
) /* clustered */;

CREATE TABLE calls (                      -- the record of a call: log row, receipt and bodies
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    log_id      TEXT NOT NULL,            -- UUIDv7: ordered by time
    gateway_id  TEXT NOT NULL,
    created_at  BIGINT NOT NULL,          -- when the call began
    provider    TEXT NOT NULL,
    model       TEXT NOT NULL,
    success     INTEGER NOT NULL,
    status_code INTEGER NOT NULL,
    duration    BIGINT NOT NULL,          -- milliseconds
    tokens_in   BIGINT,                   -- tokens; null: not known
    tokens_out  BIGINT,                   -- tokens; null: not known
    cost        BIGINT NOT NULL,          -- nano-dollars, rounded up: what the provider takes
    charge      BIGINT NOT NULL,          -- nano-dollars: what the account pays
    detail      TEXT NOT NULL,            -- JSON: the log row's other fields
    receipt     TEXT,                     -- JSON: pricing.receipt.Receipt; outlives the log row
    logged      INTEGER NOT NULL,         -- 0 where the gateway or the caller asked for no log: the receipt stays
    request     BYTEA,                    -- bodies, as far as the log keeps them; last, behind all that lists read
    response    BYTEA,
    push        INTEGER,                  -- 1 until its line has been pushed (calls.exports.log_push); null: it need not be
    meter       INTEGER,                  -- 1 until the account's Stripe meter knows of it (calls.exports.meter_events); null as above
    classify    INTEGER,                  -- 1 until the classifier was asked about it (calls.exports.classify); null as above
    PRIMARY KEY (bucket, account_id, log_id)
) /* clustered */;
CREATE INDEX calls_of_gateway ON calls (bucket, account_id, gateway_id, log_id) WHERE logged = 1;  -- a gateway's log
CREATE INDEX calls_to_push ON calls (bucket, account_id, gateway_id, log_id) WHERE push = 1;  -- the workers' queues
CREATE INDEX calls_to_meter ON calls (bucket, account_id, gateway_id, log_id) WHERE meter = 1;
CREATE INDEX calls_to_classify ON calls (bucket, account_id, gateway_id, log_id) WHERE classify = 1;

CREATE TABLE log_destinations (           -- where an account has its logs pushed
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    config      TEXT NOT NULL,            -- JSON: farebox.log_destination
    sealed      BYTEA NOT NULL,           -- AES-GCM, bound to the account: its secrets
    created_at  BIGINT NOT NULL,
    modified_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id)
) /* clustered */;

CREATE TABLE export_states (              -- state of the deliveries of a gateway's calls to other systems
    bucket        INTEGER NOT NULL,
    account_id    TEXT NOT NULL,
    gateway_id    TEXT NOT NULL,
    kind          TEXT NOT NULL,          -- push, meter, classify: the column of calls
    failures      INTEGER NOT NULL,       -- in a row
    failing_at    BIGINT,
    next_at       BIGINT NOT NULL,        -- when the next attempt is made
    error         TEXT NOT NULL,          -- why the last one failed
    delivered_at  BIGINT,
    batch         TEXT NOT NULL,          -- JSON: the file under way, with its calls; empty: none is
    PRIMARY KEY (bucket, account_id, gateway_id, kind)
) /* clustered */;

CREATE TABLE cached_responses (           -- what gateways return to identical requests (calls.cache)
    bucket       INTEGER NOT NULL,
    account_id   TEXT NOT NULL,
    gateway_id   TEXT NOT NULL,
    key          TEXT NOT NULL,           -- the gateway's generation, and SHA-256 of the request and who pays
    size         BIGINT NOT NULL,         -- number of bytes, including an allowance for the row
    expires_at   BIGINT NOT NULL,
    content_type TEXT NOT NULL,
    body         BYTEA NOT NULL,          -- as it was sent
    PRIMARY KEY (bucket, account_id, gateway_id, key)
) /* clustered */;
CREATE INDEX cached_responses_by_end ON cached_responses (bucket, account_id, expires_at)
    WHERE size >= 0;  -- the next to be removed; always true: what looks up a key cannot use it (storage.cached_responses)

CREATE TABLE cache_leftovers (            -- gateways whose cache was emptied: what is left of it is removed bit by bit
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    gateway_id TEXT NOT NULL,
    PRIMARY KEY (bucket, account_id, gateway_id)
) /* clustered */;

CREATE TABLE cache_totals (               -- the sizes of an account's cached responses
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    bytes      BIGINT NOT NULL,           -- number of bytes
    PRIMARY KEY (bucket, account_id)
) /* clustered */;

CREATE TABLE cache_sum (                  -- one row: the sum of cache_totals
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    bytes BIGINT NOT NULL                 -- number of bytes
);

CREATE TABLE usage_hours (                -- calls and charges by hour: usage reports and spending limits read it
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    hour       BIGINT NOT NULL,           -- milliseconds since 1970-01-01T00:00:00Z: start of the hour in UTC
    provider   TEXT NOT NULL,
    model      TEXT NOT NULL,
    calls      BIGINT NOT NULL,           -- number of calls
    charge     BIGINT NOT NULL,           -- nano-dollars
    tokens_in  BIGINT NOT NULL,           -- tokens
    tokens_out BIGINT NOT NULL,           -- tokens
    PRIMARY KEY (bucket, account_id, hour, provider, model)
) /* clustered */;

CREATE TABLE log_totals (                 -- how many calls the log of a gateway has, so that a page need not count them
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    gateway_id TEXT NOT NULL,
    upto       TEXT NOT NULL,             -- those whose log_id is below this are counted in `calls`
    calls      BIGINT NOT NULL,           -- number of calls
    forgotten  BIGINT NOT NULL,           -- number of calls deleted from the log so far: voids a count begun before
    counted_at BIGINT NOT NULL,           -- when they were last counted one by one
    PRIMARY KEY (bucket, account_id, gateway_id)
) /* clustered */;

CREATE TABLE rate_counts (                -- calls per gateway and window, of all processes together; empty on SQLite
    account_id TEXT NOT NULL,
    gateway_id TEXT NOT NULL,
    length     BIGINT NOT NULL,           -- milliseconds: length of the window
    number     BIGINT NOT NULL,           -- number of the window: milliseconds since 1970-01-01T00:00:00Z by length
    calls      BIGINT NOT NULL,           -- number of calls
    PRIMARY KEY (account_id, gateway_id, length, number)
) /* clustered */;

CREATE TABLE corrected_calls (            -- by how much a re-rating changed what a call was charged (operator.rerate)
    bucket        INTEGER NOT NULL,
    account_id    TEXT NOT NULL,
    log_id        TEXT NOT NULL,
    rerate_id     TEXT NOT NULL,
    amount        BIGINT NOT NULL,        -- nano-dollars: above zero given back, below zero charged
    charge        BIGINT NOT NULL,        -- nano-dollars that the call costs by the corrected price
    price_version TEXT NOT NULL,          -- of the corrected price
    correction_id TEXT NOT NULL,          -- of the transfer, correction:{correction_id}, which is that of several calls
    at            BIGINT NOT NULL,        -- milliseconds since 1970-01-01T00:00:00Z
    PRIMARY KEY (bucket, account_id, log_id, rerate_id)
) /* clustered */;
CREATE INDEX corrected_calls_of_rerate ON corrected_calls (bucket, account_id, rerate_id);  -- an account's sum

CREATE TABLE rerates (                    -- corrections of a wrong price, as the operator asked for them
    rerate_id   TEXT PRIMARY KEY,
    spec        TEXT NOT NULL,            -- JSON: operator.rerate.Spec
    created_at  BIGINT NOT NULL,
    finished_at BIGINT                    -- null: it is being applied, or was interrupted: the same request resumes it
);

CREATE TABLE provider_bills (             -- what providers bill the operator (operator.bills)
    provider    TEXT NOT NULL,
    source      TEXT NOT NULL,            -- the operator's name for an organization there
    day         BIGINT NOT NULL,          -- milliseconds since 1970-01-01T00:00:00Z: start of the day in UTC
    model       TEXT NOT NULL,            -- as the provider names it
    amount      BIGINT,                   -- nano-dollars; null: not known, like the next columns
    requests    BIGINT,                   -- number of requests
    tokens_in   BIGINT,                   -- tokens
    tokens_out  BIGINT,                   -- tokens
    imported_at BIGINT NOT NULL,
    PRIMARY KEY (provider, source, day, model)
) /* clustered */;

CREATE TABLE what_ifs (                   -- an account's latest replay of past calls (calls.what_if)
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    what_if_id TEXT NOT NULL,             -- UUIDv7
    scenario   TEXT NOT NULL,             -- JSON: calls.what_if.replay.Scenario
    state      TEXT NOT NULL,             -- running, done, cancelled, failed
    replayed   BIGINT NOT NULL,           -- number of calls so far
    total      BIGINT NOT NULL,           -- number of calls in all
    report     TEXT,                      -- JSON: calls.what_if.report.Report; null: not done
    started_at BIGINT NOT NULL,
    seen_at    BIGINT NOT NULL,           -- renewed every few seconds; if long past while running: its process is gone
    PRIMARY KEY (bucket, account_id)
) /* clustered */;

CREATE TABLE kept_objects (               -- stored provider objects: which account each ID belongs to
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    gateway_id TEXT NOT NULL,             -- the gateway that created it; no other knows it
    provider   TEXT NOT NULL,
    kind       TEXT NOT NULL,             -- providers.objects.Kind
    object_id  TEXT NOT NULL,             -- the provider's
    key_id     TEXT NOT NULL,             -- the operator's key that it was created with
    size       BIGINT NOT NULL,           -- number of bytes that it takes at the provider; of files alone
    content    BYTEA,                     -- JSON: as the provider described it last, for lists; null: it is in no list
    created_at BIGINT NOT NULL,
    expires_at BIGINT,                    -- when it is forgotten; null: when it is deleted
    PRIMARY KEY (bucket, account_id, gateway_id, provider, kind, object_id)
) /* clustered */;
CREATE INDEX kept_objects_expiring ON kept_objects (bucket, expires_at) WHERE expires_at IS NOT NULL;  -- the daily job's

CREATE TABLE long_calls (                 -- work that continues at providers after its request was answered
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    log_id      TEXT NOT NULL,            -- of the call that began it: its hold, its charge, its log row
    gateway_id  TEXT NOT NULL,
    provider    TEXT NOT NULL,
    kind        TEXT NOT NULL,            -- response, batch, prediction
    object_id   TEXT NOT NULL,            -- the provider's; empty: not known yet
    key_id      TEXT NOT NULL,            -- the operator's key that it was begun with
    state       TEXT NOT NULL,            -- asked, running (docs/adr/0026-long-calls.md)
    work        BYTEA NOT NULL,           -- JSON: calls.long_calls.work.Work, what its charge is computed from
    created_at  BIGINT NOT NULL,
    ends_at     BIGINT NOT NULL,          -- when it is ended by policy at the latest
    next_at     BIGINT NOT NULL,          -- when to look at it again
    looks       BIGINT NOT NULL,          -- number of claims to look at it: voids what a former holder writes
    PRIMARY KEY (bucket, account_id, log_id)
) /* clustered */;
CREATE INDEX long_calls_due ON long_calls (bucket, next_at);  -- the workers' queue
CREATE INDEX long_calls_of_object ON long_calls (bucket, account_id, provider, object_id);

-- Payments: how an account buys credit. Amounts are US cents. ---------------------------------------------------------

CREATE TABLE customers (                  -- which customer of the processor an account is
    account_id  TEXT PRIMARY KEY,
    customer_id TEXT NOT NULL UNIQUE,     -- the processor's name for the account
    created_at  BIGINT NOT NULL,
    cards_at    BIGINT NOT NULL DEFAULT 0 -- when the stored cards were requested: an older response is out of date
);

CREATE TABLE billing_profiles (           -- what invoices say about the customer, and the bounds of a top-up
    bucket           INTEGER NOT NULL,
    account_id       TEXT NOT NULL,
    name             TEXT NOT NULL DEFAULT '',
    email            TEXT NOT NULL DEFAULT '',
    address          TEXT NOT NULL DEFAULT '',  -- lines
    country          TEXT NOT NULL DEFAULT '',  -- ISO 3166-1 alpha-2
    tax_id           TEXT NOT NULL DEFAULT '',
    top_up_min_cents BIGINT,              -- null: as the setting says
    top_up_max_cents BIGINT,              -- null: as the setting says
    updated_at       BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id)
) /* clustered */;

CREATE TABLE cards (                      -- saved cards, as the processor last described them
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    card_id     TEXT NOT NULL,            -- the processor's payment method
    brand       TEXT NOT NULL,
    last4       TEXT NOT NULL,
    exp_month   INTEGER NOT NULL,
    exp_year    INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,            -- the same for the same card saved twice
    is_default  INTEGER NOT NULL,
    was_default INTEGER NOT NULL DEFAULT 0, -- 1: has been the default; a late event does not make it so again
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, card_id)
) /* clustered */;

CREATE TABLE top_up_rules (               -- the owner's settings for auto top-up, and what it does now; no row: off
    bucket            INTEGER NOT NULL,
    account_id        TEXT NOT NULL,
    amount_cents      BIGINT NOT NULL,    -- credit bought each time
    threshold_cents   BIGINT NOT NULL,    -- posted balance below which it is bought
    monthly_cap_cents BIGINT NOT NULL,    -- per calendar month in UTC
    state             TEXT NOT NULL,      -- payments.states.RULE_STATES
    reason            TEXT,               -- payments.states.DISABLED_REASONS: the API's disabledReason
    error             TEXT,               -- for people: why the last attempt failed
    until             BIGINT,             -- milliseconds since 1970-01-01T00:00:00Z; paused: until when
    failures          INTEGER NOT NULL DEFAULT 0,  -- in a row
    last_failed_at    BIGINT,
    fingerprint       TEXT,               -- suspended: the card that must not be charged again
    sequence          BIGINT NOT NULL DEFAULT 0,   -- number of requests so far: names the next one
    updated_at        BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id)
) /* clustered */;

CREATE TABLE top_ups (                    -- purchases of credit, from the request to the end
    bucket           INTEGER NOT NULL,
    account_id       TEXT NOT NULL,
    top_up_id        TEXT NOT NULL,
    kind             TEXT NOT NULL,       -- manual, auto, checkout
    state            TEXT NOT NULL,       -- payments.states.TOP_UP_STATES
    credit_cents     BIGINT NOT NULL,     -- what the account gets
    fee_cents        BIGINT NOT NULL,
    tax_cents        BIGINT NOT NULL,
    lines            TEXT NOT NULL,       -- JSON: payments.purchase.Purchase, as it was priced
    card_id          TEXT,
    fingerprint      TEXT,                -- of the card, as brand and last4
    brand            TEXT,
    last4            TEXT,
    payment_id       TEXT,                -- the processor's invoice
    checkout_id      TEXT,
    request_key      TEXT,                -- the caller's Idempotency-Key, or a substitute
    request_hash     TEXT,
    attempt          INTEGER NOT NULL DEFAULT 0,  -- number of the latest attempt (top_up_attempts)
    lease_owner      TEXT,                -- the process that works on it
    lease_epoch      BIGINT NOT NULL DEFAULT 0,   -- number of the lease: voids what a former holder writes
    lease_until      BIGINT,              -- milliseconds since 1970-01-01T00:00:00Z
    next_at          BIGINT,              -- when to look at it again; null: nothing more to do
    first_unknown_at BIGINT,              -- since when the processor's response is missing
    unseen_at        BIGINT,              -- when the processor's list of invoices first lacked it
    retry_at         BIGINT,              -- declined: when the card may be charged again
    client_secret    TEXT,
    action_url       TEXT,                -- hosted page on which the owner confirms it
    decline_code     TEXT,
    error            TEXT,
    refunded_cents   BIGINT NOT NULL DEFAULT 0,  -- of the captured amount, refunds in progress included
    disputed_cents   BIGINT NOT NULL DEFAULT 0,
    clawed_cents     BIGINT NOT NULL DEFAULT 0,  -- of the credit, taken back by refunds and open or lost disputes
    created_at       BIGINT NOT NULL,
    updated_at       BIGINT NOT NULL,
    paid_at          BIGINT,
    PRIMARY KEY (bucket, account_id, top_up_id)
) /* clustered */;
CREATE UNIQUE INDEX top_ups_one_auto ON top_ups (bucket, account_id)  -- one auto top-up at a time
    WHERE kind = 'auto' AND state IN ('requested', 'submitting', 'unknown', 'processing', 'action_required', 'declined');
CREATE UNIQUE INDEX top_ups_by_request ON top_ups (bucket, account_id, request_key)  -- a repeated request finds its own
    WHERE request_key IS NOT NULL;
CREATE INDEX top_ups_due ON top_ups (next_at) WHERE next_at IS NOT NULL;  -- the workers' queue
CREATE INDEX top_ups_by_time ON top_ups (bucket, account_id, created_at, top_up_id);  -- an account's list
CREATE INDEX top_ups_latest ON top_ups (bucket, created_at);  -- the operator's list of all

CREATE TABLE top_up_attempts (            -- every charge that was attempted: what the guards count
    bucket       INTEGER NOT NULL,
    account_id   TEXT NOT NULL,
    top_up_id    TEXT NOT NULL,
    attempt      INTEGER NOT NULL,        -- 1, 2, 3 … of the top-up
    kind         TEXT NOT NULL,           -- the top-up's
    fingerprint  TEXT NOT NULL,           -- the card's; empty: none is known yet
    amount_cents BIGINT NOT NULL,         -- what the card is charged: credit, fee and tax
    started_at   BIGINT NOT NULL,
    ended_at     BIGINT,
    outcome      TEXT,                    -- state it led to
    decline_code TEXT,
    PRIMARY KEY (bucket, account_id, top_up_id, attempt)
) /* clustered */;
CREATE INDEX top_up_attempts_by_time ON top_up_attempts (bucket, account_id, started_at);  -- those of the last days

CREATE TABLE payments (                   -- the processor's names of a payment, and the one top-up it belongs to
    payment_id        TEXT PRIMARY KEY,   -- the processor's invoice
    account_id        TEXT NOT NULL,
    top_up_id         TEXT NOT NULL,
    payment_intent_id TEXT,
    charge_id         TEXT
);
CREATE INDEX payments_by_intent ON payments (payment_intent_id);  -- refunds and disputes name the intent or the charge
CREATE INDEX payments_by_charge ON payments (charge_id);

CREATE TABLE refunds (                    -- money paid back to a card, and the credit taken for it
    bucket       INTEGER NOT NULL,
    account_id   TEXT NOT NULL,
    refund_id    TEXT NOT NULL,           -- ours; the processor's where it was made there
    top_up_id    TEXT NOT NULL,
    processor_id TEXT,                    -- unique by refund_names
    state        TEXT NOT NULL,           -- payments.states.REFUND_STATES
    amount_cents BIGINT NOT NULL,         -- paid back to the card
    credit_cents BIGINT NOT NULL,         -- taken from the credit
    reason       TEXT NOT NULL DEFAULT '',
    error        TEXT,
    next_at      BIGINT,                  -- when to look at it again; null: nothing more to do
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, refund_id)
) /* clustered */;
CREATE INDEX refunds_latest ON refunds (bucket, created_at);  -- the operator's list of all
CREATE INDEX refunds_due ON refunds (next_at) WHERE next_at IS NOT NULL;  -- the workers' queue
CREATE INDEX refunds_by_processor ON refunds (processor_id) WHERE processor_id IS NOT NULL;  -- an event names only that

CREATE TABLE refund_names (               -- makes the processor's names of refunds unique across all accounts
    processor_id TEXT PRIMARY KEY,
    account_id   TEXT NOT NULL,
    refund_id    TEXT NOT NULL
);

CREATE TABLE disputes (                   -- payments that a bank questions or has taken back
    bucket       INTEGER NOT NULL,
    account_id   TEXT NOT NULL,
    dispute_id   TEXT NOT NULL,           -- the processor's
    top_up_id    TEXT NOT NULL,
    state        TEXT NOT NULL,           -- payments.states.DISPUTE_STATES
    amount_cents BIGINT NOT NULL,         -- what the bank disputes
    taken_cents  BIGINT NOT NULL DEFAULT 0,  -- of the captured amount: what refunds have left of it
    credit_cents BIGINT NOT NULL,         -- taken from the credit
    take_id      TEXT NOT NULL DEFAULT '',   -- the ledger took it as `dispute:{take_id}`
    reason       TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, dispute_id)
) /* clustered */;
CREATE INDEX disputes_latest ON disputes (bucket, created_at);  -- the operator's list of all
CREATE INDEX disputes_open ON disputes (bucket, account_id, created_at)  -- what needs attention
    WHERE state IN ('inquiry', 'open');

CREATE TABLE processor_events (           -- the webhook inbox: stored, acknowledged, then processed
    event_id     TEXT PRIMARY KEY,
    type         TEXT NOT NULL,
    object_id    TEXT NOT NULL,
    body         BYTEA NOT NULL,
    created_at   BIGINT NOT NULL,         -- by the processor's clock
    received_at  BIGINT NOT NULL,
    via          TEXT NOT NULL DEFAULT 'webhook',  -- webhook, sweep
    attempts     INTEGER NOT NULL DEFAULT 0,
    next_at      BIGINT,                  -- null: done, or given up
    processed_at BIGINT,
    outcome      TEXT                     -- the result, or the last error
);
CREATE INDEX processor_events_due ON processor_events (next_at) WHERE next_at IS NOT NULL;  -- the workers' queue

CREATE TABLE findings (                   -- differences that reconciliation found; it never corrects them itself
    finding_id   TEXT PRIMARY KEY,
    kind         TEXT NOT NULL,
    account_id   TEXT,
    payment_id   TEXT,
    amount_cents BIGINT NOT NULL,
    detail       TEXT NOT NULL,
    found_at     BIGINT NOT NULL,
    resolved_at  BIGINT,                  -- null: open
    accepted_cents BIGINT                 -- amount that an operator has accepted: it does not open the finding again
);
CREATE INDEX findings_open ON findings (account_id) WHERE resolved_at IS NULL;  -- what needs attention

-- Invoices and credit notes. ------------------------------------------------------------------------------------------

CREATE TABLE series (                     -- consecutive numbers of documents, without gaps
    name TEXT PRIMARY KEY,
    next BIGINT NOT NULL                  -- the number that the next document gets
);

CREATE TABLE documents (                  -- invoices and credit notes: what they say is fixed when they are issued
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    number      TEXT NOT NULL,            -- unique by document_numbers
    kind        TEXT NOT NULL,            -- invoice, credit_note
    top_up_id   TEXT NOT NULL,
    cause_id    TEXT NOT NULL,            -- the payment, refund or dispute it documents
    total_cents BIGINT NOT NULL,
    content     TEXT NOT NULL,            -- JSON: everything the page shows
    issued_at   BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, cause_id)
) /* clustered */;
CREATE INDEX documents_by_time ON documents (bucket, account_id, issued_at, number);  -- an account's list
CREATE INDEX documents_by_number ON documents (number);  -- the operator knows the number alone

CREATE TABLE document_numbers (           -- makes the numbers of documents unique across all accounts
    number     TEXT PRIMARY KEY,
    account_id TEXT NOT NULL,
    cause_id   TEXT NOT NULL
);

-- Messages to owners and the operator. --------------------------------------------------------------------------------

CREATE TABLE webhook_endpoints (          -- where messages are sent
    endpoint_id TEXT PRIMARY KEY,
    account_id  TEXT,                     -- null: the operator's, for every account
    url         TEXT NOT NULL,
    secret      BYTEA NOT NULL,           -- AES-GCM, bound to the endpoint
    kinds       TEXT NOT NULL,            -- JSON array; empty: all
    created_at  BIGINT NOT NULL
);
CREATE INDEX webhook_endpoints_of_account ON webhook_endpoints (account_id);  -- to find where a notice goes

CREATE TABLE notices (                    -- written in the transaction of the event they report; account '': the operator's
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    notice_id  TEXT NOT NULL,             -- derived from the cause: a repeat finds itself
    kind       TEXT NOT NULL,
    content    TEXT NOT NULL,             -- JSON
    created_at BIGINT NOT NULL,
    fanned_out INTEGER NOT NULL DEFAULT 0,-- 1: its deliveries have been written
    PRIMARY KEY (bucket, account_id, notice_id)
) /* clustered */;
CREATE INDEX notices_latest ON notices (bucket, created_at, notice_id);  -- the operator's list of all
CREATE INDEX notices_new ON notices (created_at) WHERE fanned_out = 0;  -- the workers' queue

CREATE TABLE deliveries (                 -- one notice to one endpoint or address
    bucket       INTEGER NOT NULL,
    account_id   TEXT NOT NULL,
    notice_id    TEXT NOT NULL,
    target       TEXT NOT NULL,           -- endpoint ID, or mailto:…
    attempts     INTEGER NOT NULL DEFAULT 0,
    next_at      BIGINT,                  -- null: delivered, or given up
    delivered_at BIGINT,
    last_error   TEXT,
    PRIMARY KEY (bucket, account_id, notice_id, target)
) /* clustered */;
CREATE INDEX deliveries_due ON deliveries (next_at) WHERE next_at IS NOT NULL;  -- the workers' queue
CREATE INDEX deliveries_given_up ON deliveries (bucket, account_id, notice_id) WHERE next_at IS NULL AND delivered_at IS NULL;

CREATE TABLE operator_alarms (            -- what the operator should look into; one row for each subject
    kind        TEXT NOT NULL,            -- storage.notices.ALARM_KINDS
    about       TEXT NOT NULL,            -- the subject: a provider, a model
    content     TEXT NOT NULL,            -- JSON, of the last time
    times       BIGINT NOT NULL,          -- number of times it was raised since it was opened
    first_at    BIGINT NOT NULL,
    last_at     BIGINT NOT NULL,
    resolved_at BIGINT,                   -- null: open
    PRIMARY KEY (kind, about)
);

-- The processes that serve. -------------------------------------------------------------------------------------------

CREATE TABLE instances (                  -- gateway processes, which own holds
    instance_id TEXT PRIMARY KEY,
    started_at  BIGINT NOT NULL,
    seen_at     BIGINT NOT NULL           -- renewed every few seconds, by its own clock; long past: it is dead
);

CREATE TABLE leases (                     -- which process does a job that only one may do at a time
    name    TEXT PRIMARY KEY,
    owner   TEXT NOT NULL,
    epoch   BIGINT NOT NULL,              -- number of the lease: voids what a former holder writes
    until   BIGINT NOT NULL,              -- milliseconds since 1970-01-01T00:00:00Z
    done_at BIGINT                        -- when the job was last finished
);
