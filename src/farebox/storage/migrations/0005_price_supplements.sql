-- Prices from public sources that the operator has loaded in place of the shipped ones.

CREATE TABLE price_supplements (          -- the latest counts; the older ones explain old receipts
    loaded_at BIGINT PRIMARY KEY,
    text      TEXT NOT NULL               -- JSON: pricing.supplement; empty: the shipped one again
);
