"""The ledger as a page of plain Python: no database, no cleverness, written from the README and not from posting.

Money is only ever what is left in lots; `posted` and `held` are counted anew each time they are asked for.
"""

from dataclasses import dataclass, field

from farebox.ledger.commands import (
    Command,
    Conflict,
    Correct,
    Expire,
    Extend,
    Grant,
    Hold,
    Outcome,
    Release,
    Settle,
    TopUp,
    Verdict,
)

FOREVER = 2**62


@dataclass
class Lot:
    lot_id: str
    bought: bool
    left: int
    priority: int
    ends: int
    since: int

    @property
    def turn(self) -> tuple[int, bool, int, int, str]:
        return self.priority, self.bought, self.ends, self.since, self.lot_id


@dataclass
class Held:
    asked: int
    amount: int
    ends: int
    state: str = "open"
    charge: int = 0
    lost: int = 0


@dataclass
class Purse:
    """One account."""

    lots: list[Lot] = field(default_factory=list)
    holds: dict[str, Held] = field(default_factory=dict)
    seen: dict[str, tuple[object, ...]] = field(default_factory=dict)
    """Id of what came in or was corrected → its content."""

    @property
    def posted(self) -> int:
        return sum(lot.left for lot in self.lots)

    @property
    def held(self) -> int:
        return sum(hold.amount for hold in self.holds.values() if hold.state == "open")

    @property
    def free(self) -> int:
        return self.posted - self.held

    def spend(self, amount: int) -> None:
        for lot in sorted(self.lots, key=lambda lot: lot.turn):
            part = min(lot.left, amount)
            lot.left -= part
            amount -= part
        assert amount == 0

    def lapse(self, at: int) -> int:
        """Take back what is left of lots whose time is up, but nothing that is held."""
        taken = 0
        for lot in sorted(self.lots, key=lambda lot: (lot.ends, lot.lot_id)):
            if lot.ends <= at:
                part = min(lot.left, self.free)
                lot.left -= part
                taken += part
        return taken

    def short(self, amount: int) -> Outcome | None:
        if amount <= self.free:
            return None
        return Outcome.HELD_ELSEWHERE if amount <= self.posted else Outcome.REFUSED


class Model:
    """Several accounts."""

    def __init__(self, *account_ids: str) -> None:
        self.purses = {account_id: Purse() for account_id in account_ids}

    def do(self, command: Command) -> Verdict:
        """Answer as the ledger must. Raises Conflict."""
        purse = self.purses.get(command.account_id)
        if purse is None:
            return Verdict(Outcome.UNKNOWN)
        outcome, *amounts = _answer(purse, command)
        amount, lost, late = (*amounts, 0, 0, 0)[:3]
        return Verdict(outcome, purse.posted, purse.held, amount, lost, bool(late))


_Answer = tuple[Outcome, *tuple[int, ...]]
"""The outcome; then, where they are not zero: amount, written off, late."""


def _answer(purse: Purse, command: Command) -> _Answer:
    match command:
        case TopUp() | Grant() | Correct():
            return _once(purse, command)
        case Hold():
            return _hold(purse, command)
        case Expire():
            due = [hold for hold in purse.holds.values() if hold.state == "open" and hold.ends <= command.at]
            for hold in due:
                hold.state = "expired"
            taken = purse.lapse(command.at)
            return (Outcome.DONE, taken) if due or taken else (Outcome.REPEATED,)
    earlier = purse.holds.get(command.hold_id)  # the others speak of a hold
    return (Outcome.UNKNOWN,) if earlier is None else _on_hold(purse, earlier, command)


def _on_hold(purse: Purse, hold: Held, command: Extend | Settle | Release) -> _Answer:
    match command:
        case Extend():
            return _extend(purse, hold, command)
        case Settle():
            return _settle(purse, hold, command)
        case Release():
            if hold.state == "open":
                hold.state = "released"
                return (Outcome.DONE,)
            return (Outcome.REPEATED if hold.state == "released" else Outcome.NOT_OPEN,)


def _once(purse: Purse, command: TopUp | Grant | Correct) -> _Answer:
    """Money in, and corrections: known by their id, whatever the time they are sent."""
    match command:
        case TopUp():
            name, content = f"top_up:{command.payment_id}", (command.amount, command.priority, command.expires_at)
        case Grant():
            name, content = f"grant:{command.grant_id}", (command.amount, command.priority, command.expires_at)
        case Correct():
            name, content = f"correction:{command.correction_id}", (command.amount, 50, None)
    if name in purse.seen:
        if purse.seen[name] != content:
            raise Conflict(name)
        return Outcome.REPEATED, command.amount
    amount, priority, ends = content
    if amount < 0:
        purse.lapse(command.at)
        refused = purse.short(-amount)
        if refused is not None:
            return (refused,)
        purse.spend(-amount)
    else:
        bought = not isinstance(command, Grant)
        purse.lots.append(Lot(name, bought, amount, priority, FOREVER if ends is None else ends, command.at))
    purse.seen[name] = content
    return Outcome.DONE, amount


def _hold(purse: Purse, command: Hold) -> _Answer:
    earlier = purse.holds.get(command.hold_id)
    if earlier is not None:
        if earlier.asked != command.amount:
            raise Conflict(command.hold_id)
        return Outcome.REPEATED, earlier.amount
    purse.lapse(command.at)
    refused = purse.short(command.amount)
    if refused is not None:
        return (refused,)
    purse.holds[command.hold_id] = Held(command.amount, command.amount, command.expires_at)
    return Outcome.DONE, command.amount


def _extend(purse: Purse, hold: Held, command: Extend) -> _Answer:
    if hold.state != "open":
        return (Outcome.NOT_OPEN,)
    if command.amount <= hold.amount and command.expires_at <= hold.ends:
        return Outcome.REPEATED, hold.amount
    purse.lapse(command.at)
    more = max(0, command.amount - hold.amount)
    if more > purse.free:
        return (Outcome.REFUSED if hold.amount + more > purse.posted else Outcome.HELD_ELSEWHERE,)
    hold.amount += more
    hold.ends = max(hold.ends, command.expires_at)
    return Outcome.DONE, hold.amount


def _settle(purse: Purse, hold: Held, command: Settle) -> _Answer:
    if hold.state == "settled":
        if hold.charge != command.amount:
            raise Conflict(command.hold_id)
        return Outcome.REPEATED, hold.charge - hold.lost, hold.lost
    if hold.state == "released":
        return (Outcome.NOT_OPEN,)
    late = hold.state == "expired"
    if late or command.amount > hold.amount:
        purse.lapse(command.at)
    hold.state, hold.charge = "settled", command.amount
    paid = min(command.amount, purse.free)
    hold.lost = command.amount - paid
    purse.spend(paid)
    return Outcome.DONE, paid, hold.lost, late
