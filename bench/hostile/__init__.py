"""What one account can do to the others: measured."""
