"""What gateways send elsewhere of their calls: how it is encoded. runtime and calls decide when, and send it."""
