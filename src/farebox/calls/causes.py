"""The causes of failed calls, as a small set of words that metrics count by."""

from typing import Final

from farebox.calls.endings import (
    CLIENT_GONE,
    CONNECTION_FAILED,
    HOLD_IN_DOUBT,
    INTERNAL_ERROR,
    NO_END,
    SERVER_STOPPED,
    SILENCE,
    TOO_LONG,
)
from farebox.calls.price import REPORTED_FAILURE
from farebox.calls.record import CallOutcome
from farebox.counts import OTHER

_BY_TEXT: Final = {
    CLIENT_GONE: "client_gone",
    SILENCE: "provider_silent",
    TOO_LONG: "too_long",
    REPORTED_FAILURE: "provider_failed",
    NO_END: "provider_failed",
    SERVER_STOPPED: "server_stopped",
    HOLD_IN_DOUBT: "database_unavailable",
    INTERNAL_ERROR: "internal",
}


def cause_of(ended: CallOutcome) -> str:
    """One of metrics.families.CAUSES; empty if the call ended well."""
    if ended.cause:
        return ended.cause
    if ended.error:
        failed = ended.error.startswith(CONNECTION_FAILED)
        return "connection_failed" if failed else _BY_TEXT.get(ended.error, OTHER)
    if ended.status >= 400:
        return "provider_5xx" if ended.status >= 500 else "provider_4xx"
    return ""
