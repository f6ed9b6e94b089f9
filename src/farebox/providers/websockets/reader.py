"""What the messages of a session mean for the cost, whatever the provider's form: what a message may make the provider
do, and what the provider has done. A turn is a unit of work that the provider bills separately."""

from typing import Final, Literal, Protocol, TypeAlias

import msgspec

from farebox.errors import Problem
from farebox.providers.formats.base import Observed, ParsedRequest

Lane: TypeAlias = Literal["response", "transcript"]
"""A kind of turn. Turns of one lane begin in the order in which they were asked for."""


FIRST: Final = "*"
"""A value of FromProvider.rejected: the earliest sent message whose turn has not begun."""


class TurnRequest(msgspec.Struct, frozen=True):
    """Something that a message may make the provider do."""

    lane: Lane
    parsed: ParsedRequest
    """An upper bound of the work."""
    by_itself: bool = False
    """The provider decides whether and when to begin: one such turn is held for in advance."""
    alone: bool = False
    """The turn replaces the one held in advance. Its message waits until all turns that were requested before have
    begun."""
    event_id: str = ""
    """The ID by which the provider names the message if it rejects it."""


class FromClient(msgspec.Struct, frozen=True):
    """A message from the client."""

    data: bytes
    """The message as it is passed on."""
    asks: tuple[TurnRequest, ...] = ()
    refused: str = ""
    """Why it is not sent on the operator's key; empty if it is sent."""


class FromProvider(msgspec.Struct, frozen=True):
    """A message from the provider."""

    begun: tuple[tuple[Lane, str], ...] = ()
    """Turns that have begun, by the provider's IDs."""
    ended: tuple[tuple[Lane, str, Observed], ...] = ()
    rejected: str = ""
    """The `event_id` of a message that the provider has rejected, or FIRST."""


class ByTurns:
    """Base of readers for sessions in which the provider reports what each turn has used."""

    owed: TurnRequest | None = None

    def waits(self, data: bytes) -> bool:
        """No message waits."""
        return False

    def take(self) -> Observed | None:
        """None: nothing is charged before a turn has ended."""
        return None


class BySent:
    """Base of readers for sessions in which the account is charged for what is sent."""

    def waits(self, data: bytes) -> bool:
        """No message waits."""
        return False

    def limited(self, data: bytes, tokens: int) -> bytes:
        """The message unchanged: there is no such limit."""
        return data

    def cancel(self) -> bytes:
        """Nothing: the account is charged for what is sent."""
        return b""

    def error(self, problem: Problem) -> bytes:
        """Nothing: the code and reason with which the WebSocket is closed report the error."""
        return b""


class SessionReader(Protocol):
    """Reads one session."""

    @property
    def owed(self) -> TurnRequest | None:
        """The part of the hold in advance that has already been sent to the provider and not charged: it is charged
        however the client ends the session. None: nothing."""
        ...

    def waits(self, data: bytes) -> bool:
        """Whether a client's message must not be read before everything requested has begun."""
        ...

    def client(self, data: bytes, *, text: bool = True) -> FromClient:
        """Read a message from the client, in a `text` or a binary frame. Raises InvalidRequest if it cannot be read, or
        Problem if that ends the session."""
        ...

    def provider(self, data: bytes) -> FromProvider:
        """A message from the provider."""
        ...

    def take(self) -> Observed | None:
        """In sessions where the account is charged for what is sent: what was sent before the client's last message,
        whether or not the provider has confirmed it. It counts as charged from now on. None: nothing."""
        ...

    def limited(self, data: bytes, tokens: int) -> bytes:
        """The client's message, with a limit on the output that it requests."""
        ...

    def unrequested(self, lane: Lane) -> TurnRequest | None:
        """A turn that the provider has begun although nobody requested it; None: that is impossible."""
        ...

    def usage_so_far(self, lane: Lane, turn_id: str) -> Observed:
        """What an unfinished turn has used so far, as far as can be observed; an unknown ID stands for a turn that has
        not begun."""
        ...

    def cancel(self) -> bytes:
        """A message that asks the provider to stop the turns in progress; empty: there is none."""
        ...

    def error(self, problem: Problem) -> bytes:
        """A message that reports an error to the client; empty: the form has none."""
        ...
