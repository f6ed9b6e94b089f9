"""What happens when the database is away, killed, failed over, or its standby is missing: with real servers."""
