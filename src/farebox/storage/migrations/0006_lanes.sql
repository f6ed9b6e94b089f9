-- Which process may send batches of calls to which bucket. On PostgreSQL alone; elsewhere it stays empty.

CREATE TABLE lanes (
    bucket      INTEGER NOT NULL,
    instance_id TEXT NOT NULL,
    epoch       BIGINT NOT NULL,          -- of its connection: a batch under another makes no holds (ledger.lanes)
    PRIMARY KEY (bucket, instance_id)
) /* clustered */;
