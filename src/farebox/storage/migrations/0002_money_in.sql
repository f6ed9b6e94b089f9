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
