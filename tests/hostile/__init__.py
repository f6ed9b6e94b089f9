"""One tenant against all, and broken surroundings."""
