"""Work that a provider continues after it has answered, and the objects that it keeps for an account."""
