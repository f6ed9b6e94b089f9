"""An account's past calls, replayed with another limit, price or model."""
