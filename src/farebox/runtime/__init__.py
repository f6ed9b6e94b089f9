"""What a running process consists of: its services, cached configuration, leases, tasks, the journal, readiness."""
