-- The ledger's batches: farebox.ledger.lanes calls them.
SELECT 1;
