"""Storage: connections, the schema, and the stores, which convert rows to domain objects and back. The only package
that knows a driver."""
