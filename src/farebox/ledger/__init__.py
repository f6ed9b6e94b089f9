"""The ledger: books, transfers, lots, holds. See README.md in this folder for the invariants."""
