"""Data derived from finished calls for other systems: spans, log files, meter events; and the classification of
calls."""
