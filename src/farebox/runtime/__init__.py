"""What a serving process is made of: its services, cached configuration, leases, tasks, the journal, readiness."""
