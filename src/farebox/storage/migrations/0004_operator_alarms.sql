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
