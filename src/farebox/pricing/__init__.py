"""What a call costs: prices, estimates before it, charges after it."""
