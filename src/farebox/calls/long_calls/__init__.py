"""Work that a provider goes on with after it has answered, and the objects that it keeps for an account."""
