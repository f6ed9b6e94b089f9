"""What is derived from a finished call for others: spans, log files, meter events; and its classification."""
