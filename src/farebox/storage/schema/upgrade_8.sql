-- From version 7 (Farebox 0.5) to 8: without what nothing reads, with the names that a new database has, and with an index
-- that tells which buckets are in use.

ALTER TABLE cards DROP COLUMN warned_at;
DROP INDEX top_ups_by_payment;
/* postgres: ALTER INDEX documents_again_pkey RENAME TO documents_pkey; */
/* postgres: ALTER INDEX refunds_again_pkey RENAME TO refunds_pkey; */
CREATE INDEX accounts_of_bucket ON accounts (bucket);
