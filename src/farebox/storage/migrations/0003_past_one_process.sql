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
