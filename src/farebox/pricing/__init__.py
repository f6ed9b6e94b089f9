"""What a call costs: prices, estimates before a call, charges after it."""
