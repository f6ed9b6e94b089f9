"""The parts of a running process: its services, cached configuration, leases, tasks, the journal, readiness."""
