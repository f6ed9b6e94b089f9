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
-- Money in: cards, top-ups, auto top-up, refunds, disputes, invoices, messages, spending limits.
-- Amounts named …_cents are US cents; all others nano-dollars. Times are milliseconds since the Unix epoch.

-- What the ledger reads with the balance, in the row that it locks anyway.
ALTER TABLE balances ADD COLUMN owed BIGINT NOT NULL DEFAULT 0;       -- taken back beyond what was left; paid by the next money in
ALTER TABLE balances ADD COLUMN top_up_below BIGINT;                  -- armed: `posted` below this asks for an auto top-up
ALTER TABLE balances ADD COLUMN low_below BIGINT;                     -- `posted` below this is told to the owner…
ALTER TABLE balances ADD COLUMN low_told INTEGER NOT NULL DEFAULT 0;  -- …once, until it has been above again
ALTER TABLE balances ADD COLUMN limit_amount BIGINT;                  -- spending limit; null: none
ALTER TABLE balances ADD COLUMN limit_duration TEXT;                  -- daily, weekly, monthly
ALTER TABLE balances ADD COLUMN limit_strategy TEXT;                  -- fixed, sliding
ALTER TABLE balances ADD COLUMN limit_from BIGINT;                    -- start of the hours that limit_spent sums; null: to be summed anew
ALTER TABLE balances ADD COLUMN limit_spent BIGINT NOT NULL DEFAULT 0;-- the sum of the account's usage_hours from there on

-- Directory. -------------------------------------------------------------------------------------------------------

CREATE TABLE installation (
    one             INTEGER PRIMARY KEY CHECK (one = 1),
    installation_id TEXT NOT NULL          -- marks what we make at the processor as ours
);

CREATE TABLE customers (
    account_id  TEXT PRIMARY KEY,
    customer_id TEXT NOT NULL UNIQUE,     -- the processor's name for the account
    created_at  BIGINT NOT NULL,
    cards_at    BIGINT NOT NULL DEFAULT 0 -- when the cards as stored were asked for: an older answer is no news
);

CREATE TABLE payments (
    payment_id TEXT PRIMARY KEY,          -- the processor's invoice: one payment belongs to one top-up of one account
    account_id TEXT NOT NULL,
    top_up_id  TEXT NOT NULL,
    payment_intent_id TEXT,
    charge_id  TEXT
);
CREATE INDEX payments_by_intent ON payments (payment_intent_id);
CREATE INDEX payments_by_charge ON payments (charge_id);

CREATE TABLE processor_events (           -- the webhook inbox
    event_id     TEXT PRIMARY KEY,
    type         TEXT NOT NULL,
    object_id    TEXT NOT NULL,
    body         BYTEA NOT NULL,
    created_at   BIGINT NOT NULL,         -- by the processor's clock
    received_at  BIGINT NOT NULL,
    via          TEXT NOT NULL DEFAULT 'webhook', -- webhook, sweep
    attempts     INTEGER NOT NULL DEFAULT 0,
    next_at      BIGINT,                  -- null: done, or given up
    processed_at BIGINT,
    outcome      TEXT                     -- what came of it, or the last error
);
CREATE INDEX processor_events_due ON processor_events (next_at) WHERE next_at IS NOT NULL;

CREATE TABLE findings (                   -- what reconciliation found that does not agree; never mended by itself
    finding_id  TEXT PRIMARY KEY,
    kind        TEXT NOT NULL,
    account_id  TEXT,
    payment_id  TEXT,
    amount_cents BIGINT NOT NULL,
    detail      TEXT NOT NULL,
    found_at    BIGINT NOT NULL,
    resolved_at BIGINT
);

CREATE TABLE leases (                     -- who does a job that must have one doer
    name   TEXT PRIMARY KEY,
    owner  TEXT NOT NULL,
    epoch  BIGINT NOT NULL,
    until  BIGINT NOT NULL,
    done_at BIGINT                        -- when the job was last finished
);

CREATE TABLE tax_rates (
    country        TEXT PRIMARY KEY,      -- ISO 3166-1 alpha-2; '*' for every other country
    name           TEXT NOT NULL,         -- as the invoice says it: VAT, GST…
    parts_per_million BIGINT NOT NULL,
    reverse_charge INTEGER NOT NULL,      -- 1: a customer there with a tax id owes the tax themselves
    updated_at     BIGINT NOT NULL
);

CREATE TABLE series (                     -- consecutive numbers of documents, without gaps
    name TEXT PRIMARY KEY,
    next BIGINT NOT NULL
);

CREATE TABLE webhook_endpoints (          -- where messages are sent
    endpoint_id TEXT PRIMARY KEY,
    account_id  TEXT,                     -- null: the operator's, for every account
    url         TEXT NOT NULL,
    secret      BYTEA NOT NULL,           -- AES-GCM, bound to the endpoint
    kinds       TEXT NOT NULL,            -- JSON array; empty: all
    created_at  BIGINT NOT NULL
);
CREATE INDEX webhook_endpoints_of_account ON webhook_endpoints (account_id);

CREATE TABLE owner_sessions (             -- the owner's billing page: links that open one, and open sessions
    hash       BYTEA PRIMARY KEY,
    kind       TEXT NOT NULL,             -- link, session
    account_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

-- Of accounts. -----------------------------------------------------------------------------------------------------

CREATE TABLE billing_profiles (
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    name       TEXT NOT NULL DEFAULT '',
    email      TEXT NOT NULL DEFAULT '',
    address    TEXT NOT NULL DEFAULT '',  -- lines
    country    TEXT NOT NULL DEFAULT '',
    tax_id     TEXT NOT NULL DEFAULT '',
    top_up_min_cents BIGINT,              -- null: the setting's
    top_up_max_cents BIGINT,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id)
) /* clustered */;

CREATE TABLE cards (
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    card_id     TEXT NOT NULL,            -- the processor's payment method
    brand       TEXT NOT NULL,
    last4       TEXT NOT NULL,
    exp_month   INTEGER NOT NULL,
    exp_year    INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,            -- the same for the same card saved twice
    is_default  INTEGER NOT NULL,
    was_default INTEGER NOT NULL DEFAULT 0,-- 1: has been it; late news that it was saved does not make it so again
    created_at  BIGINT NOT NULL,
    warned_at   BIGINT,                   -- month before expiry: told
    PRIMARY KEY (bucket, account_id, card_id)
) /* clustered */;

CREATE TABLE top_up_rules (
    bucket            INTEGER NOT NULL,
    account_id        TEXT NOT NULL,
    amount_cents      BIGINT NOT NULL,
    threshold_cents   BIGINT NOT NULL,
    monthly_cap_cents BIGINT NOT NULL,
    state             TEXT NOT NULL,      -- payments.states.RULE_STATES
    reason            TEXT,               -- payments.states.DISABLED_REASONS: the wire's disabledReason
    error             TEXT,               -- for people: why the last attempt failed
    until             BIGINT,             -- paused: to when
    failures          INTEGER NOT NULL DEFAULT 0,  -- in a row
    last_failed_at    BIGINT,
    fingerprint       TEXT,               -- suspended: the card that must not be tried again
    sequence          BIGINT NOT NULL DEFAULT 0,   -- requests so far: names the next one
    updated_at        BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id)
) /* clustered */;

CREATE TABLE top_ups (
    bucket         INTEGER NOT NULL,
    account_id     TEXT NOT NULL,
    top_up_id      TEXT NOT NULL,
    kind           TEXT NOT NULL,         -- manual, auto, checkout
    state          TEXT NOT NULL,         -- payments.states.TOP_UP_STATES
    credit_cents   BIGINT NOT NULL,       -- what the account gets
    fee_cents      BIGINT NOT NULL,
    tax_cents      BIGINT NOT NULL,
    lines          TEXT NOT NULL,         -- JSON: payments.purchase.Purchase, as it was priced
    card_id        TEXT,
    fingerprint    TEXT,
    brand          TEXT,
    last4          TEXT,
    payment_id     TEXT,                  -- the processor's invoice
    checkout_id    TEXT,
    request_key    TEXT,                  -- the caller's Idempotency-Key, or what stands for it
    request_hash   TEXT,
    attempt        INTEGER NOT NULL DEFAULT 0,
    lease_owner    TEXT,
    lease_epoch    BIGINT NOT NULL DEFAULT 0,
    lease_until    BIGINT,
    next_at        BIGINT,                -- when to look at it again; null: nothing more to do
    first_unknown_at BIGINT,              -- since when the processor's answer is missing
    unseen_at      BIGINT,                -- when a listing that came late enough to be believed first did not show it
    retry_at       BIGINT,                -- declined: when the card may be tried again
    client_secret  TEXT,
    action_url     TEXT,                  -- hosted page on which the owner finishes it
    decline_code   TEXT,
    error          TEXT,
    refunded_cents BIGINT NOT NULL DEFAULT 0,  -- of the captured amount, refunds under way included
    disputed_cents BIGINT NOT NULL DEFAULT 0,
    clawed_cents   BIGINT NOT NULL DEFAULT 0,  -- of the credit, taken back by refunds and open or lost disputes
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL,
    paid_at        BIGINT,
    PRIMARY KEY (bucket, account_id, top_up_id)
) /* clustered */;
CREATE UNIQUE INDEX top_ups_one_auto ON top_ups (bucket, account_id)
    WHERE kind = 'auto' AND state IN ('requested', 'submitting', 'unknown', 'processing', 'action_required', 'declined');
CREATE UNIQUE INDEX top_ups_by_request ON top_ups (bucket, account_id, request_key) WHERE request_key IS NOT NULL;
CREATE INDEX top_ups_due ON top_ups (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX top_ups_by_payment ON top_ups (payment_id);
CREATE INDEX top_ups_by_time ON top_ups (bucket, account_id, created_at, top_up_id);

CREATE TABLE top_up_attempts (            -- every charge that was tried: what the guards count
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    top_up_id   TEXT NOT NULL,
    attempt     INTEGER NOT NULL,
    kind        TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    amount_cents BIGINT NOT NULL,
    started_at  BIGINT NOT NULL,
    ended_at    BIGINT,
    outcome     TEXT,                     -- state it led to
    decline_code TEXT,
    PRIMARY KEY (bucket, account_id, top_up_id, attempt)
) /* clustered */;
CREATE INDEX top_up_attempts_by_time ON top_up_attempts (bucket, account_id, started_at);

CREATE TABLE refunds (
    bucket       INTEGER NOT NULL,
    account_id   TEXT NOT NULL,
    refund_id    TEXT NOT NULL,           -- ours; the processor's where it was made there
    top_up_id    TEXT NOT NULL,
    processor_id TEXT UNIQUE,
    state        TEXT NOT NULL,           -- payments.states.REFUND_STATES
    amount_cents BIGINT NOT NULL,         -- paid back to the card
    credit_cents BIGINT NOT NULL,         -- taken from the credit
    reason       TEXT NOT NULL DEFAULT '',
    error        TEXT,
    next_at      BIGINT,
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, refund_id)
) /* clustered */;
CREATE INDEX refunds_due ON refunds (next_at) WHERE next_at IS NOT NULL;

CREATE TABLE disputes (
    bucket       INTEGER NOT NULL,
    account_id   TEXT NOT NULL,
    dispute_id   TEXT NOT NULL,           -- the processor's
    top_up_id    TEXT NOT NULL,
    state        TEXT NOT NULL,           -- payments.states.DISPUTE_STATES
    amount_cents BIGINT NOT NULL,         -- what the bank disputes
    taken_cents  BIGINT NOT NULL DEFAULT 0,-- of the captured amount: what refunds have left of it
    credit_cents BIGINT NOT NULL,         -- taken from the credit
    take_id      TEXT NOT NULL DEFAULT '',-- the ledger took it as `dispute:{take_id}`
    reason       TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, dispute_id)
) /* clustered */;

CREATE TABLE app_holds (                  -- what an application said of a hold of its own; the hold itself is in `holds`
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    hold_id     TEXT NOT NULL,            -- as in `holds`: app:…
    label       TEXT NOT NULL,            -- what the application calls it
    provider    TEXT,                     -- settled: what the charge is counted under
    model       TEXT,
    note        TEXT,
    settled_at  BIGINT,                   -- and in which hour
    PRIMARY KEY (bucket, account_id, hold_id)
) /* clustered */;

CREATE TABLE documents (                  -- invoices and credit notes: what they say is fixed when they are issued
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    number      TEXT NOT NULL UNIQUE,
    kind        TEXT NOT NULL,            -- invoice, credit_note
    top_up_id   TEXT NOT NULL,
    cause_id    TEXT NOT NULL,            -- the payment, refund or dispute it documents
    total_cents BIGINT NOT NULL,
    content     TEXT NOT NULL,            -- JSON: everything the page shows
    issued_at   BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, cause_id)
) /* clustered */;

CREATE INDEX documents_by_time ON documents (bucket, account_id, issued_at, number);

CREATE TABLE notices (                    -- messages to the owner and the operator
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    notice_id  TEXT NOT NULL,             -- derived from the cause: a repeat finds itself
    kind       TEXT NOT NULL,
    content    TEXT NOT NULL,             -- JSON
    created_at BIGINT NOT NULL,
    fanned_out INTEGER NOT NULL DEFAULT 0,-- 1: its deliveries have been written
    PRIMARY KEY (bucket, account_id, notice_id)
) /* clustered */;
CREATE INDEX notices_new ON notices (created_at) WHERE fanned_out = 0;

CREATE TABLE deliveries (                 -- one notice to one place
    bucket      INTEGER NOT NULL,
    account_id  TEXT NOT NULL,
    notice_id   TEXT NOT NULL,
    target      TEXT NOT NULL,            -- endpoint id, or mailto:…
    attempts    INTEGER NOT NULL DEFAULT 0,
    next_at     BIGINT,                   -- null: delivered, or given up
    delivered_at BIGINT,
    last_error  TEXT,
    PRIMARY KEY (bucket, account_id, notice_id, target)
) /* clustered */;
CREATE INDEX deliveries_due ON deliveries (next_at) WHERE next_at IS NOT NULL;
-- Past one process: who serves, what they count together.

CREATE TABLE instances (                  -- processes that serve: whose holds are theirs to end
    instance_id TEXT PRIMARY KEY,
    started_at  BIGINT NOT NULL,
    seen_at     BIGINT NOT NULL           -- raised every few seconds; long past: it is dead
);

CREATE TABLE rate_counts (                -- calls per gateway and window, of all processes together
    account_id  TEXT NOT NULL,
    gateway_id  TEXT NOT NULL,
    length      BIGINT NOT NULL,          -- of the window, in milliseconds
    number      BIGINT NOT NULL,          -- of the window: time divided by length
    calls       BIGINT NOT NULL,
    PRIMARY KEY (account_id, gateway_id, length, number)
) /* clustered */;


-- Kept sums: what can be counted again from other rows, so that reading it need not. Written where it is read.

CREATE TABLE transfer_days (              -- an account's transfers by day, up to the version in transfer_marks
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    day        BIGINT NOT NULL,           -- milliseconds, start of the day in UTC
    kind       TEXT NOT NULL,
    from_book  TEXT NOT NULL,
    to_book    TEXT NOT NULL,
    amount     BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, day, kind, from_book, to_book)
) /* clustered */;

CREATE TABLE transfer_marks (
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    version    BIGINT NOT NULL,           -- transfers up to here are in transfer_days
    PRIMARY KEY (bucket, account_id)
) /* clustered */;

CREATE TABLE log_totals (                 -- how many calls the log of a gateway has
    bucket     INTEGER NOT NULL,
    account_id TEXT NOT NULL,
    gateway_id TEXT NOT NULL,
    upto       TEXT NOT NULL,             -- those whose id is below this are counted in `calls`
    calls      BIGINT NOT NULL,
    forgotten  BIGINT NOT NULL,           -- taken out of the log so far: voids a count that was begun before
    counted_at BIGINT NOT NULL,           -- when they were last counted one by one
    PRIMARY KEY (bucket, account_id, gateway_id)
) /* clustered */;

-- Directory: what must be unique across accounts. On Citus no key of an account's table can see to that, as each
-- contains the bucket: these tables do, and the tables they speak of are made again without the constraint.

CREATE TABLE document_numbers (
    number     TEXT PRIMARY KEY,
    account_id TEXT NOT NULL,
    cause_id   TEXT NOT NULL
);
INSERT INTO document_numbers (number, account_id, cause_id) SELECT number, account_id, cause_id FROM documents;

CREATE TABLE documents_again (            -- invoices and credit notes: what they say is fixed when they are issued
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
INSERT INTO documents_again
    SELECT bucket, account_id, number, kind, top_up_id, cause_id, total_cents, content, issued_at FROM documents;
DROP TABLE documents;
ALTER TABLE documents_again RENAME TO documents;
CREATE INDEX documents_by_time ON documents (bucket, account_id, issued_at, number);
CREATE INDEX documents_by_number ON documents (number);

CREATE TABLE refund_names (               -- the processor's names of refunds
    processor_id TEXT PRIMARY KEY,
    account_id   TEXT NOT NULL,
    refund_id    TEXT NOT NULL
);
INSERT INTO refund_names (processor_id, account_id, refund_id)
    SELECT processor_id, account_id, refund_id FROM refunds WHERE processor_id IS NOT NULL;

CREATE TABLE refunds_again (
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
    next_at      BIGINT,
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL,
    PRIMARY KEY (bucket, account_id, refund_id)
) /* clustered */;
INSERT INTO refunds_again
    SELECT bucket, account_id, refund_id, top_up_id, processor_id, state, amount_cents, credit_cents, reason, error,
        next_at, created_at, updated_at FROM refunds;
DROP TABLE refunds;
ALTER TABLE refunds_again RENAME TO refunds;
CREATE INDEX refunds_due ON refunds (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX refunds_by_processor ON refunds (processor_id) WHERE processor_id IS NOT NULL;
-- What belongs to the operator alone.

CREATE TABLE operator_alarms (            -- what the operator should look into; one row for each matter
    kind        TEXT NOT NULL,            -- storage.notices.ALARM_KINDS
    about       TEXT NOT NULL,            -- what it is about: a provider, a model
    content     TEXT NOT NULL,            -- JSON, of the last time
    times       BIGINT NOT NULL,          -- how often it was raised since it was opened
    first_at    BIGINT NOT NULL,
    last_at     BIGINT NOT NULL,
    resolved_at BIGINT,                   -- null: open
    PRIMARY KEY (kind, about)
);
-- Prices from public sources that the operator has loaded in place of the shipped ones.

CREATE TABLE price_supplements (          -- the latest counts; the older ones explain old receipts
    loaded_at BIGINT PRIMARY KEY,
    text      TEXT NOT NULL               -- JSON: pricing.supplement; empty: the shipped one again
);
-- Which process may send batches of calls to which bucket. On PostgreSQL alone; elsewhere it stays empty.

CREATE TABLE lanes (
    bucket      INTEGER NOT NULL,
    instance_id TEXT NOT NULL,
    epoch       BIGINT NOT NULL,          -- of its connection: a batch under another makes no holds (ledger.lanes)
    PRIMARY KEY (bucket, instance_id)
) /* clustered */;
-- Bodies lie in the rows of their calls, behind all that lists read: one row and one key less for each call.

ALTER TABLE calls ADD COLUMN request BYTEA;   -- as far as the log keeps it
ALTER TABLE calls ADD COLUMN response BYTEA;
UPDATE calls SET request = b.request, response = b.response FROM call_bodies b
    WHERE b.bucket = calls.bucket AND b.account_id = calls.account_id AND b.log_id = calls.log_id;
DROP TABLE call_bodies;
