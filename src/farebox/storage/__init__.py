"""Storage: connections, the schema, and the stores (rows to nouns and back). The only package that knows a driver."""
