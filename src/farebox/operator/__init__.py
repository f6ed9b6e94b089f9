"""What an operator does: accounts, tokens, prices, messages, copying a database."""
