"""What leaves Farebox about a call after it: spans, log files, meter events, classifications."""
