"""What the ledger can be asked, and what it answers.

Every command names the account and carries an id derived from its cause, so that a repeat finds its own earlier work:
the same id with the same content is answered as the first was, the same id with other content is a Conflict.
A refusal changes nothing and is not remembered: the same command may be sent again later and then be admitted.
"""

from enum import StrEnum
from typing import Final, Literal, Protocol, TypeAlias

import msgspec

from farebox.storage.calls import CallRow, insert_call
from farebox.storage.sql import Connection


class Outcome(StrEnum):
    """How a command ended."""

    DONE = "done"
    """It took effect now."""
    REPEATED = "repeated"
    """It had taken effect before, with the same content."""
    REFUSED = "refused"
    """There is not enough money on the account, whatever its open holds."""
    HELD_ELSEWHERE = "held_elsewhere"
    """The money is there, and room under every limit, but other calls' holds keep it for the moment."""
    LIMITED = "limited"
    """The account's spending limit or a budget would be exceeded, whatever its open holds and the account's balance."""
    NOT_OPEN = "not_open"
    """The hold was resolved another way before (settle after release, extend after settle…)."""
    UNKNOWN = "unknown"
    """There is no such account or hold; nothing was taken back by that cause."""


DONE: Final = Outcome.DONE
UNKNOWN: Final = Outcome.UNKNOWN
"""For what runs with every call: to look a member up in its class takes Python 3.11 as long as a small function."""
_TAKEN_EFFECT: Final = (Outcome.DONE, Outcome.REPEATED)


class Conflict(Exception):
    """The id was used before with other content. Nothing changed; the caller has a bug or a replayed id."""


class Record(Protocol):
    """Something that is written in the same commit as the end of a hold: the call's log row and receipt.

    It adds what was charged to the hourly sums (storage.calls.add_usage), from which spending limits are counted.
    """

    @property
    def at(self) -> int:
        """The moment under whose hour the charge is counted."""
        ...

    def write(self, connection: Connection, bucket: int, verdict: "Verdict") -> None: ...


class CallWritten:
    """A Record that is one call's row and nothing else: a fast path writes the row itself, next to those of others.

    An abstract base, but no ABC: a msgspec.Struct, which inherits from it, cannot have that metaclass.
    """

    __slots__ = ()

    @property
    def at(self) -> int:
        """The moment at which the call began, under whose hour its charge is counted."""
        raise NotImplementedError

    def row(self, verdict: "Verdict") -> CallRow:
        """The row for what the ledger says was taken. Of the verdict it may use what it says of the charge (amount,
        written_off, late, limit, spent), not the account's balance."""
        raise NotImplementedError

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
    """Why, for the statement; not part of what a repeat must match."""


class Budget(msgspec.Struct, frozen=True, gc=False):
    """A budget that a hold must fit in, and its charge counts in.

    Time is cut into slots; a hold counts in the slot it is made in. It fits if the window, the slots from `since` on,
    has room for it below `limit`. Times in milliseconds.
    """

    scope: str
    """What is counted together. It includes the length of the slots, so that another length starts from zero."""
    limit: int
    """Nano-dollars."""
    start: int
    """The slot of the hold."""
    since: int
    """The first slot of the window; `start` itself where windows do not overlap."""
    ends_at: int
    """From then on no window has the slot in it."""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Reserve the most a call can cost, on the account and in budgets, in all of them or in none. Refused unless
    available covers it, and what the account's spending limit and each budget leaves. The id must not contain `/`."""

    account_id: str
    hold_id: str
    amount: int
    at: int
    expires_at: int
    owner: str = ""
    """The process that will resolve it; what a dead process left open is found by this name."""
    counted_at: int | None = None
    """When its charge will be counted (Record.at), where that is known and earlier than `at`: the spending limit must
    hold in the window of that time."""
    budgets: tuple[Budget, ...] = ()
    """Each of another scope. Not part of what a repeat must match."""
    reserve: int | None = None
    """What is reserved in the budgets, where it is not `amount`."""

    @property
    def reserved(self) -> int:
        """What is reserved in the budgets."""
        return self.amount if self.reserve is None else self.reserve


class Extend(msgspec.Struct, frozen=True, kw_only=True):
    """Raise an open hold to a new total and a later expiry; neither ever shrinks. A hold that counts in budgets is
    not raised."""

    account_id: str
    hold_id: str
    amount: int
    at: int
    expires_at: int
    counted_at: int | None = None
    """As that of its Hold."""


class Settle(msgspec.Struct, frozen=True, kw_only=True):
    """End a hold by charging `amount` and giving the rest back.

    An amount above the hold is an overrun: it is taken as far as the account's available money goes, the rest is
    written off by the house and reported. A hold that expired meanwhile is charged the same way, flagged `late`.
    """

    account_id: str
    hold_id: str
    amount: int
    at: int
    record: Record | None = None
    """Written in the same commit: the call's log row and receipt. Without one the charge is counted at `at`, under the
    provider storage.calls.UNRECORDED."""
    note: str = ""
    """What for, for the statement; not part of what a repeat must match."""
    counts: int | None = None
    """What counts in the hold's budgets, where it is not what is taken from the account."""
    held: int | None = None
    """What the hold reserves, where the caller knows that, and that it is in no budget: such settles are quicker, and a
    wrong figure makes them no more than slow."""


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """End a hold without a charge."""

    account_id: str
    hold_id: str
    at: int
    record: Record | None = None


class Expire(msgspec.Struct, frozen=True, kw_only=True):
    """Take back what is due: the account's open holds and its lots whose expiry has passed at `at`.

    A lot gives only what is left of it and of the available money; what open holds keep is taken by a later Expire.
    """

    account_id: str
    at: int


class Correct(msgspec.Struct, frozen=True, kw_only=True):
    """Mend an earlier charge: a positive amount is given back as credit, a negative one is charged.

    What is given back returns to lots that it was taken from, as far as `into` names any, and else fills a new one.
    Refused where a negative amount exceeds what is available. What is given back to bought credit pays first what the
    account owes. A correction is not spending: it counts in no window of a spending limit. The id must not contain `/`.
    """

    account_id: str
    correction_id: str
    amount: int
    at: int
    reason: str = ""
    into: tuple[tuple[str, int], ...] = ()
    """Lots that a positive amount goes back to, in this order, each with the most that it gets. One that has expired
    gets nothing, and none more than it lacks of what filled it. Not part of what a repeat must match."""
    book: Literal["credit", "granted"] = "credit"
    """Of the lot that the rest of a positive amount fills. Not part of what a repeat must match either."""


class TakeBack(msgspec.Struct, frozen=True, kw_only=True):
    """Take back the credit that a payment bought, because the payment was refunded or is disputed.

    First what is left of the payment's own lot, then other bought credit in spending order; never grants, and never
    what open holds keep. The rest of `amount` is owed: the next money into `credit` pays it first.
    """

    account_id: str
    cause: str
    """`refund:{id}` or `dispute:{id}`; the id must not contain `/`."""
    payment_id: str
    amount: int
    at: int


class GiveBack(msgspec.Struct, frozen=True, kw_only=True):
    """Undo a TakeBack, in full or in part: the refund failed, or the dispute was won. Fills a lot that does not expire,
    and pays what is owed from it first.

    UNKNOWN where nothing was taken back by that refund or dispute; REFUSED where `amount` is more than was.
    """

    account_id: str
    cause: str
    """`refund_failed:{id}` or `dispute_won:{id}`, with the id of the TakeBack."""
    amount: int
    at: int


Command: TypeAlias = TopUp | Grant | Hold | Extend | Settle | Release | Expire | Correct | TakeBack | GiveBack


class Verdict(msgspec.Struct, frozen=True):
    """The ledger's answer. Amounts in nano-dollars; `posted` and `held` as they stand after the command."""

    outcome: Outcome
    posted: int = 0
    held: int = 0
    amount: int = 0
    """What moved: credited, held in all, charged, expired, or taken back of what was there."""
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
    """Where `limit` is said: what was charged in its window so far, this charge included."""
    budget: int | None = None
    """The place in Hold.budgets of the one that refused it; None: the account did."""
    reserved: int = 0
    """Where `budget` is said: what open holds reserve in its window."""

    @property
    def available(self) -> int:
        return self.posted - self.held

    @property
    def affordable(self) -> int:
        """The largest hold that would have been admitted instead of the one refused, as far as the limit that refused
        it is concerned."""
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
