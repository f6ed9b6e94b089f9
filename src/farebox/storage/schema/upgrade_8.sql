-- From version 7 (Farebox 0.5) to 8: without what nothing reads, with the names that a new database has, with an index
-- that tells which buckets are in use, and with others that a charge leaves alone.

ALTER TABLE cards DROP COLUMN warned_at;
DROP INDEX top_ups_by_payment;
/* postgres: ALTER INDEX documents_again_pkey RENAME TO documents_pkey; */
/* postgres: ALTER INDEX refunds_again_pkey RENAME TO refunds_pkey; */
CREATE INDEX accounts_of_bucket ON accounts (bucket);
DROP INDEX transfers_by_id;
CREATE UNIQUE INDEX transfers_by_id ON transfers (bucket, account_id, transfer_id) WHERE kind <> 'charge';
ALTER TABLE lots ADD COLUMN spent INTEGER NOT NULL DEFAULT 0;
UPDATE lots SET spent = 1 WHERE remaining = 0;
DROP INDEX lots_unspent;
DROP INDEX lots_expiring;
CREATE INDEX lots_unspent ON lots (bucket, account_id) WHERE spent = 0;
CREATE INDEX lots_expiring ON lots (expires_at) WHERE spent = 0 AND expires_at IS NOT NULL;
