-- Bodies lie in the rows of their calls, behind all that lists read: one row and one key less for each call.

ALTER TABLE calls ADD COLUMN request BYTEA;   -- as far as the log keeps it
ALTER TABLE calls ADD COLUMN response BYTEA;
UPDATE calls SET request = b.request, response = b.response FROM call_bodies b
    WHERE b.bucket = calls.bucket AND b.account_id = calls.account_id AND b.log_id = calls.log_id;
DROP TABLE call_bodies;
