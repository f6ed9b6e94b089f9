"""The causes of failed calls, as a small set of words that metrics count by."""

from typing import Final

from farebox.calls.price import REPORTED_FAILURE
from farebox.calls.record import Ended
from farebox.calls.state import CLIENT_GONE, REASONS
from farebox.counts import OTHER

_BY_TEXT: Final = {
    CLIENT_GONE: "client_gone",
    REASONS["silence"]: "provider_silent",
    REASONS["too_long"]: "too_long",
    REPORTED_FAILURE: "provider_failed",
    "the server stopped": "server_stopped",
    "the database refused the hold": "database_unavailable",
    "internal error": "internal",
}
_CONNECTION_FAILED: Final = "the provider's connection failed"


def cause_of(ended: Ended) -> str:
    """One of metrics.families.CAUSES; empty where the call ended well."""
    if ended.cause:
        return ended.cause
    if ended.error:
        failed = ended.error.startswith(_CONNECTION_FAILED)
        return "connection_failed" if failed else _BY_TEXT.get(ended.error, OTHER)
    if ended.status >= 400:
        return "provider_5xx" if ended.status >= 500 else "provider_4xx"
    return ""
