"""What the messages of a session say about money, whatever the provider's form: what a message may have the provider
do, and what the provider has done. What a provider bills by itself is a turn."""

from typing import Final, Literal, Protocol, TypeAlias

import msgspec

from farebox.errors import Problem
from farebox.providers.formats.base import Observed, ParsedRequest

Lane: TypeAlias = Literal["response", "transcript"]
"""A kind of turn. Turns of one lane begin in the order in which they were asked for."""


FIRST: Final = "*"
"""Of FromProvider.rejected: the message that was sent first of those that have not had their turn."""


class Ask(msgspec.Struct, frozen=True):
    """Something that a message may have the provider do."""

    lane: Lane
    parsed: ParsedRequest
    """An upper bound of it."""
    by_itself: bool = False
    """The provider decides when to begin, and whether: one such turn is held for ahead of what may cause it."""
    alone: bool = False
    """The turn replaces the one held in advance. Its message waits until all turns that were requested before have
    begun."""
    event_id: str = ""
    """By which the provider names the message, should it refuse it."""


class FromClient(msgspec.Struct, frozen=True):
    """A message of the client's."""

    data: bytes
    """As it goes on."""
    asks: tuple[Ask, ...] = ()
    refused: str = ""
    """Why it is not sent on the operator's key; empty: it is."""


class FromProvider(msgspec.Struct, frozen=True):
    """A message of the provider's."""

    begun: tuple[tuple[Lane, str], ...] = ()
    """Turns that have begun, by the provider's IDs."""
    ended: tuple[tuple[Lane, str, Observed], ...] = ()
    rejected: str = ""
    """The `event_id` of a message that it has refused, or FIRST."""


class ByTurns:
    """Of readers of sessions in which the provider says what each turn has used."""

    owed: Ask | None = None

    def waits(self, data: bytes) -> bool:
        """No message does."""
        return False

    def take(self) -> Observed | None:
        """None: nothing is charged before a turn has ended."""
        return None


class BySent:
    """Of readers of sessions in which what is sent is charged."""

    def waits(self, data: bytes) -> bool:
        """No message does."""
        return False

    def limited(self, data: bytes, tokens: int) -> bytes:
        """There is no such limit."""
        return data

    def cancel(self) -> bytes:
        """Nothing need be stopped: it is charged as it is sent."""
        return b""

    def error(self, problem: Problem) -> bytes:
        """The code and the reason that the WebSocket is closed with say it."""
        return b""


class SessionReader(Protocol):
    """Reads one session."""

    @property
    def owed(self) -> Ask | None:
        """Exactly what the provider has already been sent and is not charged, of what is held for ahead: it is charged
        however the client ends the session. None: nothing."""
        ...

    def waits(self, data: bytes) -> bool:
        """Whether a client's message is not to be read before all that was asked for has begun."""
        ...

    def client(self, data: bytes, *, text: bool = True) -> FromClient:
        """A message of the client's, in a `text` or a binary frame. Raises InvalidRequest where it cannot be read;
        Problem where that ends the session."""
        ...

    def provider(self, data: bytes) -> FromProvider:
        """A message of the provider's."""
        ...

    def take(self) -> Observed | None:
        """What was sent before the client's last message and is charged as it is sent, whether or not the provider has
        said a word about it; it counts as charged from here on. None: nothing is."""
        ...

    def limited(self, data: bytes, tokens: int) -> bytes:
        """The client's message with the output of what it asks for limited."""
        ...

    def unasked(self, lane: Lane) -> Ask | None:
        """A turn that the provider has begun and nobody has asked for; None: it cannot be."""
        ...

    def so_far(self, lane: Lane, turn_id: str) -> Observed:
        """What a turn that has not ended has used, as far as it shows; an unknown ID: one that is to begin."""
        ...

    def cancel(self) -> bytes:
        """What asks the provider to stop the turns under way; empty: nothing does."""
        ...

    def error(self, problem: Problem) -> bytes:
        """What tells the client of an error; empty: the form has nothing for that."""
        ...
