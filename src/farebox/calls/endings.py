"""The ends of calls that have no response to pass on, or whose response breaks off: by the stage reached and the cause.
The texts appear in the call's log row, log line and receipt."""

import asyncio
from typing import Final, Literal

import msgspec

from farebox.calls.stages import Received, Responded
from farebox.calls.watch import Interrupted, Reason
from farebox.errors import DATABASE_UNAVAILABLE, INTERNAL, UPSTREAM_TIMEOUT, ClientGone, Problem
from farebox.providers.formats.base import InvalidRequest
from farebox.providers.upstream import UpstreamFailed
from farebox.storage.sql import DatabaseUnavailable

CLIENT_CLOSED_STATUS: Final = 499
CLIENT_GONE: Final = "the client disconnected"
SERVER_STOPPED: Final = "the server stopped"
SILENCE: Final = "the provider stopped sending"
TOO_LONG: Final = "the call took longer than allowed"
HOLD_IN_DOUBT: Final = "the database refused the hold"
INTERNAL_ERROR: Final = "internal error"
CONNECTION_FAILED: Final = "the provider's connection failed"
NO_END: Final = "the provider ended the stream before its last event"
INTERRUPTED: Final[dict[Reason, str]] = {"client_gone": CLIENT_GONE, "silence": SILENCE, "too_long": TOO_LONG}
CALLER_TIMEOUT: Final = "no response began in the time that the caller allows"
OPERATOR_TIMEOUT: Final = "no response began in the time that the operator allows"
BALANCE_ENDED: Final = "the balance ended"
"""Not a failure: the response ends like one that has reached its output limit."""
BLOCKED: Final = "a rule of the gateway blocked it"
CANCELLED: Final = "it was canceled"
ABANDONED: Final = (*INTERRUPTED.values(), BLOCKED)
"""Ends by which the provider may be left at work, and that the caller may have provoked."""
BY_CALLER: Final = (CLIENT_GONE, CALLER_TIMEOUT, BLOCKED, CANCELLED)
"""Ends that the caller caused, or the account by its rules."""

Reply = Literal["error", "unreadable", "timeout", "nothing"]


class Ending(msgspec.Struct, frozen=True):
    """How a call ends whose response is not passed on."""

    outcome: str
    """refused, released, free. Empty: the code that raised the error has already ended the call."""
    error: str = ""
    """If empty, the name of the problem is used."""
    reply: Reply = "error"
    """What the caller gets: the error itself, that its request is unreadable, that the provider took too long, or
    nothing."""
    status: int = CLIENT_CLOSED_STATUS
    """The status in the call's log row, unless a problem or a provider's response has one."""


_BY_RELAY: Final = Ending("")
_Rows = tuple[tuple[type[BaseException] | Reason, Ending], ...]
_BEFORE_RESPONSE: Final[_Rows] = (
    (Problem, Ending("refused")),
    (InvalidRequest, Ending("refused", reply="unreadable")),  # a body is read more closely when money is short
    ("client_gone", Ending("released", CLIENT_GONE, "nothing")),
    ("silence", Ending("released", SILENCE, "timeout", UPSTREAM_TIMEOUT.status)),
    ("too_long", Ending("released", TOO_LONG, "timeout", UPSTREAM_TIMEOUT.status)),
    # whether the hold exists is unknown
    (DatabaseUnavailable, Ending("released", HOLD_IN_DOUBT, status=DATABASE_UNAVAILABLE.status)),
    (asyncio.CancelledError, Ending("released", SERVER_STOPPED)),
    # a bug of ours, which the edge reports
    (Exception, Ending("released", INTERNAL_ERROR, status=INTERNAL.status)),
)
"""Ends until the head of the response arrives: by the error or, if a wait was interrupted, by the reason. The first
matching row applies."""
_WHILE_RELAYING: Final[_Rows] = (
    (Problem, _BY_RELAY),
    # the relay has settled, or its attempt has broken off: the hold is then in doubt, as after a crash
    (DatabaseUnavailable, _BY_RELAY),
    (asyncio.CancelledError, _BY_RELAY),
    (Exception, Ending("released", INTERNAL_ERROR)),  # without effect if the charge is already posted
)
"""Ends from then on."""
FREE: Final = Ending("free")
"""The provider responded with an error, and the request's next step is tried."""


def ending_of(stage: Received, error: BaseException) -> Ending:
    """How a call ends if this error was raised when it had reached this stage."""
    rows = _WHILE_RELAYING if isinstance(stage, Responded) else _BEFORE_RESPONSE
    reason = error.reason if isinstance(error, Interrupted) else None
    for cause, end in rows:
        if cause == reason or (isinstance(cause, type) and isinstance(error, cause)):
            return end
    raise error  # neither an Exception nor a cancellation: the process is ending


def interruption_of(error: Interrupted | ClientGone | UpstreamFailed, *, sending: bool) -> str:
    """Why a response was interrupted. `sending`: the wait was for the client, not the provider."""
    if isinstance(error, ClientGone):
        return CLIENT_GONE
    if isinstance(error, UpstreamFailed):
        return f"{CONNECTION_FAILED} ({error})"
    if sending and error.reason == "silence":
        return CLIENT_GONE  # the client stopped reading, so the provider was not asked for more
    return INTERRUPTED[error.reason]
