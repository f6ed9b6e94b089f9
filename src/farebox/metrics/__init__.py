"""What can be seen of a running server from outside, for Prometheus. docs/metrics.md explains each metric."""
