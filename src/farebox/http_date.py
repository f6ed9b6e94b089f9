"""Dates in the headers of other servers' responses."""

from datetime import UTC
from email.utils import parsedate_to_datetime


def http_date(text: str) -> float | None:
    """A date such as `Tue, 01 Dec 2026 05:00:00 GMT` in seconds since the Unix epoch; without a time zone it is UTC.
    None if the text is not a valid date."""
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # OverflowError: a year of 20 digits
        return None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
