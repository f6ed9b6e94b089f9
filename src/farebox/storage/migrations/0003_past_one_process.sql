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

