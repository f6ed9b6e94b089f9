"""What can be observed of a running server from outside, for Prometheus. docs/metrics.md explains each metric."""
