"""What the ledger can be asked, and what it answers.

Every command names the account and carries an id derived from its cause, so that a repeat finds its own earlier work:
the same id with the same content is answered as the first was, the same id with other content is a Conflict.
A refusal changes nothing and is not remembered: the same command may be sent again later and then be admitted.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeAlias

from farebox.storage.sqlite import Connection


class Outcome(StrEnum):
    """How a command ended."""

    DONE = "done"
    """It took effect now."""
    REPEATED = "repeated"
    """It had taken effect before, with the same content."""
    REFUSED = "refused"
    """There is not enough money on the account, whatever its open holds."""
    HELD_ELSEWHERE = "held_elsewhere"
    """The money is there, but other calls' holds keep it for the moment."""
    NOT_OPEN = "not_open"
    """The hold was resolved another way before (settle after release, extend after settle…)."""
    UNKNOWN = "unknown"
    """There is no such account or hold."""


class Conflict(Exception):
    """The id was used before with other content. Nothing changed; the caller has a bug or a replayed id."""


class Record(Protocol):
    """Something that is written in the same commit as the end of a hold: the call's log row and receipt."""

    def write(self, connection: Connection, bucket: int, verdict: "Verdict") -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUp:
    """Credit bought by a payment that was captured."""

    account_id: str
    payment_id: str
    amount: int
    at: int
    priority: int = 50
    expires_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Money given by the operator."""

    account_id: str
    grant_id: str
    amount: int
    at: int
    priority: int = 50
    expires_at: int | None = None
    note: str = ""
    """Why, for the statement; not part of what a repeat must match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Reserve the most a call can cost. Refused unless available covers it. The id must not contain `/`."""

    account_id: str
    hold_id: str
    amount: int
    at: int
    expires_at: int
    owner: str = ""
    """The process that will resolve it; what a dead process left open is found by this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extend:
    """Raise an open hold to a new total and a later expiry; neither ever shrinks."""

    account_id: str
    hold_id: str
    amount: int
    at: int
    expires_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """End a hold by charging `amount` and giving the rest back.

    An amount above the hold is an overrun: it is taken as far as the account's available money goes, the rest is
    written off by the house and reported. A hold that expired meanwhile is charged the same way, flagged `late`.
    """

    account_id: str
    hold_id: str
    amount: int
    at: int
    record: Record | None = None
    """Written in the same commit: the call's log row and receipt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """End a hold without a charge."""

    account_id: str
    hold_id: str
    at: int
    record: Record | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expire:
    """Take back what is due: the account's open holds and its lots whose expiry has passed at `at`.

    A lot gives only what is left of it and of the available money; what open holds keep is taken by a later Expire.
    """

    account_id: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Correct:
    """Mend an earlier charge: a positive amount is given back as credit, a negative one is charged.

    Refused where a negative amount exceeds what is available. The id must not contain `/`.
    """

    account_id: str
    correction_id: str
    amount: int
    at: int
    reason: str = ""


Command: TypeAlias = TopUp | Grant | Hold | Extend | Settle | Release | Expire | Correct


@dataclass(frozen=True, slots=True)
class Verdict:
    """The ledger's answer. Amounts in nano-dollars; `posted` and `held` as they stand after the command."""

    outcome: Outcome
    posted: int = 0
    held: int = 0
    amount: int = 0
    """What moved: credited, held in all, charged or expired."""
    written_off: int = 0
    """Settle: the part of the charge the account could not cover."""
    late: bool = False
    """Settle: the hold had expired before."""

    @property
    def available(self) -> int:
        return self.posted - self.held

    @property
    def ok(self) -> bool:
        return self.outcome in (Outcome.DONE, Outcome.REPEATED)
