"""How a call ends that has no response to pass on, or whose response breaks off: by the stage it had reached, and the
cause. The words are those of its log row, its log line and its receipt."""

import asyncio
from typing import Final, Literal

import msgspec

from farebox.calls.stages import Priced, Responded
from farebox.calls.watch import Interrupted, Reason
from farebox.errors import ClientGone, Problem
from farebox.providers.formats.base import InvalidRequest
from farebox.providers.upstream import UpstreamFailed
from farebox.storage.sql import DatabaseUnavailable

CLIENT_GONE: Final = "the client went away"
SERVER_STOPPED: Final = "the server stopped"
SILENCE: Final = "the provider fell silent"
TOO_LONG: Final = "the call took longer than allowed"
HOLD_IN_DOUBT: Final = "the database refused the hold"
INTERNAL_ERROR: Final = "internal error"
CONNECTION_FAILED: Final = "the provider's connection failed"
NO_END: Final = "the provider ended the stream before its last event"
INTERRUPTED: Final[dict[Reason, str]] = {"client_gone": CLIENT_GONE, "silence": SILENCE, "too_long": TOO_LONG}
CALLER_TIMEOUT: Final = "no response began in the time that the caller allows"
OPERATOR_TIMEOUT: Final = "no response began in the time that the operator allows"
BALANCE_ENDED: Final = "the balance ended"
"""No failure: the response ends as one does that has reached its limit."""
BLOCKED: Final = "a rule of the gateway blocked it"
CANCELLED: Final = "it was cancelled"
BY_CALLER: Final = (CLIENT_GONE, CALLER_TIMEOUT, BLOCKED, CANCELLED)
"""Ends of a call that its caller brought about, or the account by its rules."""

Reply = Literal["error", "unreadable", "timeout", "nothing"]


class EarlyEnd(msgspec.Struct, frozen=True):
    """How a call ends whose response is not passed on."""

    outcome: str
    """refused, released, free. Empty: the code that raised has ended the call."""
    error: str = ""
    """Empty: the name of the problem."""
    reply: Reply = "error"
    """What the caller is sent: the error itself, that its request is unreadable, that the provider took too long,
    nothing."""


_BY_RELAY: Final = EarlyEnd("")
_Rows = tuple[tuple[type[BaseException] | Reason, EarlyEnd], ...]
_BEFORE_RESPONSE: Final[_Rows] = (
    (Problem, EarlyEnd("refused")),
    (InvalidRequest, EarlyEnd("refused", reply="unreadable")),  # a body is read more closely when the money is short
    ("client_gone", EarlyEnd("released", CLIENT_GONE, "nothing")),
    ("silence", EarlyEnd("released", SILENCE, "timeout")),
    ("too_long", EarlyEnd("released", TOO_LONG, "timeout")),
    (DatabaseUnavailable, EarlyEnd("released", HOLD_IN_DOUBT)),  # whether the hold exists is unknown
    (asyncio.CancelledError, EarlyEnd("released", SERVER_STOPPED)),
    (Exception, EarlyEnd("released", INTERNAL_ERROR)),  # a mistake of ours, which the edge reports
)
"""Ends up to the head of the response: by the error or, where a wait was interrupted, by its reason. The first row that
matches counts."""
_WHILE_RELAYING: Final[_Rows] = (
    (Problem, _BY_RELAY),
    (DatabaseUnavailable, _BY_RELAY),  # at least that has been tried
    (asyncio.CancelledError, _BY_RELAY),
    (Exception, EarlyEnd("released", INTERNAL_ERROR)),  # where the charge is posted already, this changes nothing
)
"""Ends from there on."""
FREE: Final = EarlyEnd("free")
"""The provider responded with an error, and the next step of the request is tried."""


def early_end(stage: Priced, error: BaseException) -> EarlyEnd:
    """How a call ends that had reached this stage when the error was raised."""
    rows = _WHILE_RELAYING if isinstance(stage, Responded) else _BEFORE_RESPONSE
    reason = error.reason if isinstance(error, Interrupted) else None
    for cause, end in rows:
        if cause == reason or (isinstance(cause, type) and isinstance(error, cause)):
            return end
    raise error  # neither an Exception nor a cancellation: the process ends


def interruption_of(error: Interrupted | ClientGone | UpstreamFailed, *, sending: bool) -> str:
    """Why a response is interrupted. `sending`: the client was being waited for, not the provider."""
    if isinstance(error, ClientGone):
        return CLIENT_GONE
    if isinstance(error, UpstreamFailed):
        return f"{CONNECTION_FAILED} ({error})"
    if sending and error.reason == "silence":
        return CLIENT_GONE  # it has stopped reading: the provider was not even asked for more
    return INTERRUPTED[error.reason]
