"""An account's past calls against another limit, price or model."""
