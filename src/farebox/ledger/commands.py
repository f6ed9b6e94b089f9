"""The ledger's commands and its answer to them.

Every command names the account and carries an id derived from its cause, so that a repeat finds its own earlier work:
the same id with the same content is answered as the first was, the same id with other content is a Conflict.
A refusal changes nothing and is not remembered: the same command may be sent again later and then be admitted.

Amounts are nano-dollars, and times milliseconds since the Unix epoch.
"""

from abc import abstractmethod
from enum import StrEnum
from typing import Final, Literal, Protocol, TypeAlias

import msgspec

from farebox.storage.calls import CallRow, insert_call
from farebox.storage.sql import Connection


class Outcome(StrEnum):
    """How a command ended."""

    DONE = "done"
    """The command took effect now."""
    REPEATED = "repeated"
    """The command had taken effect before, with the same content."""
    REFUSED = "refused"
    """There is not enough money on the account, even without its open holds."""
    HELD_ELSEWHERE = "held_elsewhere"
    """There is enough money, and room under every limit, but other calls' holds reserve it at the moment."""
    LIMITED = "limited"
    """The account's spending limit or a budget would be exceeded, even without open holds and whatever the account's
    balance."""
    NOT_OPEN = "not_open"
    """The hold was resolved another way before (settle after release, extend after settle…)."""
    UNKNOWN = "unknown"
    """There is no such account or hold, or nothing was taken back for that cause."""


DONE: Final = Outcome.DONE
UNKNOWN: Final = Outcome.UNKNOWN
"""For code that runs with every call: in Python 3.11, looking up a member in its class takes as long as a small
function."""
_TAKEN_EFFECT: Final = (Outcome.DONE, Outcome.REPEATED)


class Conflict(Exception):
    """The id was used before with other content. Nothing changed; the caller has a bug or a replayed id."""

    def __init__(self, message: str, *, amount: int = 0) -> None:
        super().__init__(message)
        self.amount = amount
        """Nano-dollars of the grant or correction that was made with it."""


class Record(Protocol):
    """Something that is written in the same commit as the end of a hold, such as the call's log row and receipt.

    It adds what was charged to the hourly sums (storage.calls.add_usage), from which spending limits are counted.
    """

    @property
    def at(self) -> int:
        """The moment in whose hour the charge is counted."""
        ...

    def write(self, connection: Connection, bucket: int, verdict: "Verdict") -> None: ...


class CallWritten:
    """A Record that is one call's row and nothing else: a fast path writes the row itself, next to those of others.

    Only the type checker requires that the methods are overridden: a msgspec.Struct, which inherits from this class,
    cannot have the metaclass of ABC.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def at(self) -> int:
        """The moment at which the call began, in whose hour its charge is counted."""

    @abstractmethod
    def row(self, verdict: "Verdict") -> CallRow:
        """The row, given the ledger's verdict. It may use the verdict's fields about the charge (amount, written_off,
        late, limit, spent), but not the account's balance."""

    def write(self, connection: Connection, bucket: int, verdict: "Verdict") -> None:
        insert_call(connection, bucket, self.row(verdict))


class TopUp(msgspec.Struct, frozen=True, kw_only=True):
    """Credit bought by a payment that was captured. What the account owes is paid from it at once."""

    account_id: str
    payment_id: str
    amount: int
    at: int
    priority: int = 50
    expires_at: int | None = None


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """Money given by the operator."""

    account_id: str
    grant_id: str
    amount: int
    at: int
    priority: int = 50
    expires_at: int | None = None
    note: str = ""
    """The reason, shown on the statement; not part of what a repeat must match."""


class Budget(msgspec.Struct, frozen=True, gc=False):
    """A budget that a hold must fit in, and its charge counts in.

    Time is divided into slots; a hold counts in the slot in which it is opened. It fits if the window, which is the
    slots from `since` on, has room for it below `limit`. Times in milliseconds.
    """

    scope: str
    """Names what is counted together. It includes the length of the slots, so that another length starts from zero."""
    limit: int
    """Nano-dollars."""
    start: int
    """The slot of the hold."""
    since: int
    """The first slot of the window; `start` itself where windows do not overlap."""
    ends_at: int
    """From then on, no window contains the slot."""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Reserve the most a call can cost on the account and in budgets: in all of them or in none. Refused unless it fits
    into the available money, the account's spending limit and each budget. The id must not contain `/`."""

    account_id: str
    hold_id: str
    amount: int
    at: int
    expires_at: int
    owner: str = ""
    """The process that will resolve it; holds that a dead process left open are found by this name."""
    counted_at: int | None = None
    """When its charge will be counted (Record.at), if that is known and earlier than `at`: the spending limit of the
    window at that time applies."""
    budgets: tuple[Budget, ...] = ()
    """The budgets, all of different scopes. Not part of what a repeat must match."""
    reserve: int | None = None
    """What is reserved in the budgets, if it is not `amount`."""

    @property
    def reserved(self) -> int:
        """What is reserved in the budgets."""
        return self.amount if self.reserve is None else self.reserve


class Extend(msgspec.Struct, frozen=True, kw_only=True):
    """Raise an open hold to a new total and a later expiry; neither ever decreases. A hold that counts in budgets
    cannot be raised."""

    account_id: str
    hold_id: str
    amount: int
    at: int
    expires_at: int
    counted_at: int | None = None
    """As in Hold."""


class Settle(msgspec.Struct, frozen=True, kw_only=True):
    """End a hold by charging `amount` and giving the rest back.

    An amount above the hold is an overrun: it is taken as far as the account has money available; the rest is written
    off by the operator and reported. A hold that expired meanwhile is charged the same way, flagged `late`.
    """

    account_id: str
    hold_id: str
    amount: int
    at: int
    record: Record | None = None
    """Written in the same commit: the call's log row and receipt. Without one, the charge is counted at `at`, under the
    provider storage.calls.UNRECORDED."""
    note: str = ""
    """The purpose, shown on the statement; not part of what a repeat must match."""
    counts: int | None = None
    """What counts in the hold's budgets, if it is not what is taken from the account."""
    held: int | None = None
    """The hold's amount, if the caller knows it and knows that the hold is in no budget: this makes the settle faster;
    a wrong figure only makes it slow."""


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """End a hold without a charge."""

    account_id: str
    hold_id: str
    at: int
    record: Record | None = None


class Expire(msgspec.Struct, frozen=True, kw_only=True):
    """Take back what is due: the account's open holds and its lots whose expiry has passed at `at`.

    Only the lot's remainder is taken, and only from available money; what open holds reserve is taken by a later
    Expire.
    """

    account_id: str
    at: int


class Correct(msgspec.Struct, frozen=True, kw_only=True):
    """Correct an earlier charge: a positive amount is given back as credit, a negative one is charged.

    What is given back returns to the lots that `into` names; the rest fills a new lot. Refused if a negative amount
    exceeds what is available. What is given back to bought credit first pays what the account owes. A correction is not
    spending: it counts in no window of a spending limit. The id must not contain `/`.
    """

    account_id: str
    correction_id: str
    amount: int
    at: int
    reason: str = ""
    into: tuple[tuple[str, int], ...] = ()
    """Lots that a positive amount goes back to, in this order, each with the most that it gets. An expired lot gets
    nothing, and no lot gets more than it lacks of what filled it. Not part of what a repeat must match."""
    book: Literal["credit", "granted"] = "credit"
    """The book of the new lot for the rest of a positive amount. Not part of what a repeat must match either."""


class TakeBack(msgspec.Struct, frozen=True, kw_only=True):
    """Take back the credit that a payment bought, because the payment was refunded or is disputed.

    It is taken first from the remainder of the payment's own lot, then from other bought credit in spending order;
    never from grants, and never from what open holds reserve. The rest of `amount` is owed: the next money into
    `credit` pays it first.
    """

    account_id: str
    cause: str
    """`refund:{id}` or `dispute:{id}`; the id must not contain `/`."""
    payment_id: str
    amount: int
    at: int


class GiveBack(msgspec.Struct, frozen=True, kw_only=True):
    """Undo a TakeBack, in full or in part: the refund failed, or the dispute was won. Fills a lot that does not expire;
    what is owed is paid from it first.

    UNKNOWN if nothing was taken back for that refund or dispute; REFUSED if `amount` is more than was taken back.
    """

    account_id: str
    cause: str
    """`refund_failed:{id}` or `dispute_won:{id}`, with the id of the TakeBack."""
    amount: int
    at: int


Command: TypeAlias = TopUp | Grant | Hold | Extend | Settle | Release | Expire | Correct | TakeBack | GiveBack


class Verdict(msgspec.Struct, frozen=True):
    """The ledger's answer. Amounts in nano-dollars; `posted` and `held` are the figures after the command."""

    outcome: Outcome
    posted: int = 0
    held: int = 0
    amount: int = 0
    """The amount that moved: credited, held in all, charged, expired, or taken back from the remaining credit."""
    written_off: int = 0
    """Settle: the part of the charge the account could not cover."""
    late: bool = False
    """Settle: the hold had expired before."""
    owed: int = 0
    """What the account owes after the command."""
    limit: int | None = None
    """On a refused Hold: the limit of the budget it did not fit in. Else the account's spending limit, on a refused
    Hold or Extend and on a Settle above its hold; else None."""
    spent: int = 0
    """If `limit` is set: what was charged in its window so far, including this charge."""
    budget: int | None = None
    """The position in Hold.budgets of the budget that refused the hold; None: the account did."""
    reserved: int = 0
    """If `budget` is set: what open holds reserve in its window."""

    @property
    def available(self) -> int:
        return self.posted - self.held

    @property
    def affordable(self) -> int:
        """The largest hold that would have fitted into the limit by which this one was refused."""
        if self.limit is None:
            return self.available
        held = self.held if self.budget is None else self.reserved
        return max(0, min(self.available, self.limit - self.spent - held))

    @property
    def affordable_in_time(self) -> int:
        """The same once all other holds have ended without a charge."""
        return self.posted if self.limit is None else max(0, min(self.posted, self.limit - self.spent))

    @property
    def over_limit(self) -> int:
        """By how much the spending is above the limit."""
        return 0 if self.limit is None else max(0, self.spent - self.limit)

    @property
    def ok(self) -> bool:
        return self.outcome in _TAKEN_EFFECT
