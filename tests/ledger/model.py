"""A model of the ledger in plain Python: no database, no optimizations, written from the README rather than from
posting.

Money exists only as remainders of lots; `posted` and `held` are recomputed each time.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from farebox.ledger.commands import (
    Budget,
    Command,
    Conflict,
    Correct,
    Expire,
    Extend,
    GiveBack,
    Grant,
    Hold,
    Outcome,
    Release,
    Settle,
    TakeBack,
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
    size: int = 0
    """The source of its money."""

    def __post_init__(self) -> None:
        self.size = self.size or self.left

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
    budgets: tuple[Budget, ...] = ()
    counted: int = 0


@dataclass
class Wallet:
    """One account."""

    lots: list[Lot] = field(default_factory=list)
    holds: dict[str, Held] = field(default_factory=dict)
    seen: dict[str, tuple[object, ...]] = field(default_factory=dict)
    """ID of what came in, was taken or was corrected → its content."""
    taken: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Cause of a clawback → the whole amount, and the part that was available."""
    owed: int = 0
    usage: list[tuple[int, int]] = field(default_factory=list)
    """Time at which a charge counts, and its amount."""
    limit: tuple[int, str, str] | None = None
    armed: int | None = None
    requested: bool = False
    """Whether an auto top-up is open."""
    asked: int = 0
    low: int | None = None
    notified: bool = False
    notices: list[int] = field(default_factory=list)
    """The balances that were reported as low."""

    @property
    def posted(self) -> int:
        return sum(lot.left for lot in self.lots)

    @property
    def held(self) -> int:
        return sum(hold.amount for hold in self.holds.values() if hold.state == "open")

    @property
    def free(self) -> int:
        return self.posted - self.held

    def spend(self, amount: int, first: str | None = None) -> None:
        """Take money from lots; only from bought lots if `first` names one of them."""
        lots = sorted(self.lots, key=lambda lot: lot.turn)
        if first is not None:
            lots = sorted((lot for lot in lots if lot.bought), key=lambda lot: lot.lot_id != first)
        for lot in lots:
            part = min(lot.left, amount)
            lot.left -= part
            amount -= part
        assert amount == 0

    def lapse(self, at: int) -> int:
        """Take the remainders of expired lots, except for amounts that are held."""
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

    def bought(self, lot: Lot) -> None:
        """Pay what is owed from bought credit."""
        self.lots.append(lot)
        self.collect(lot, lot.left)

    def collect(self, lot: Lot, came: int) -> None:
        paid = min(self.owed, came)
        lot.left -= paid
        self.owed -= paid

    def spent(self, at: int) -> int:
        assert self.limit is not None
        start = beginning(*self.limit[1:], at)
        return sum(
            charge for when, charge in self.usage if _utc(when).replace(minute=0, second=0, microsecond=0) >= start
        )

    def counted(self, budget: Budget, state: str) -> int:
        """The sum of the holds in this state in the budget's window."""
        return sum(
            hold.counted
            for hold in self.holds.values()
            if hold.state == state
            for other in hold.budgets
            if other.scope == budget.scope and other.start >= budget.since
        )

    def counters(self) -> dict[tuple[str, int], tuple[int, int]]:
        """Scope and slot → spent and held, for all that ever had a hold."""
        found: dict[tuple[str, int], tuple[int, int]] = {}
        for hold in self.holds.values():
            for budget in hold.budgets:
                spent, held = found.get((budget.scope, budget.start), (0, 0))
                spent += hold.counted if hold.state == "settled" else 0
                held += hold.counted if hold.state == "open" else 0
                found[budget.scope, budget.start] = (spent, held)
        return found

    def watch(self, before: int, *, refused: bool) -> None:
        """After each command: request an auto top-up or report a low balance."""
        fell = self.posted < before
        if (fell or (refused and self.posted == before)) and self.armed is not None and self.posted < self.armed:
            self.armed = None
            self.asked += not self.requested
            self.requested = True
        if fell and self.low is not None and self.posted < self.low and (before >= self.low or not self.notified):
            self.notified = True
            self.notices.append(self.posted)
        if self.posted > before and (self.low is None or self.posted >= self.low):
            self.notified = False


def _utc(at: int) -> datetime:
    return datetime.fromtimestamp(at / 1000, UTC)


def beginning(duration: str, strategy: str, at: int) -> datetime:
    """The start of the window that contains `at`."""
    now = _utc(at)
    if strategy == "sliding":
        days = {"daily": 1, "weekly": 7, "monthly": 30}[duration]
        return (now - timedelta(days=days)).replace(minute=0, second=0, microsecond=0)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    days = {"daily": 0, "weekly": now.weekday(), "monthly": now.day - 1}[duration]
    return today - timedelta(days=days)


class Model:
    """Several accounts."""

    def __init__(self, *account_ids: str) -> None:
        self.wallets = {account_id: Wallet() for account_id in account_ids}

    def do(self, command: Command) -> Verdict:
        """The verdict that the ledger must give. Raises Conflict."""
        wallet = self.wallets.get(command.account_id)
        if wallet is None:
            return Verdict(Outcome.UNKNOWN)
        before = wallet.posted
        outcome, *amounts = _respond(wallet, command)
        wallet.watch(before, refused=outcome is Outcome.REFUSED and isinstance(command, Hold | Extend))
        amount, lost, late, limit, spent, budget, reserved = (*amounts, *(0, 0, 0, None, 0, None, 0)[len(amounts) :])
        return Verdict(
            outcome, wallet.posted, wallet.held, amount or 0, lost or 0, bool(late), wallet.owed, limit, spent or 0,
            budget, reserved or 0,
        )  # fmt: skip


_Response = tuple[Outcome, *tuple[int | None, ...]]
"""The outcome, followed by details: amount, written off, late, limit, spent, budget, reserved."""


def _respond(wallet: Wallet, command: Command) -> _Response:
    match command:
        case TopUp() | Grant() | Correct():
            return _once(wallet, command)
        case TakeBack():
            return _take_back(wallet, command)
        case GiveBack():
            return _give_back(wallet, command)
        case Hold():
            return _hold(wallet, command)
        case Expire():
            due = [hold for hold in wallet.holds.values() if hold.state == "open" and hold.ends <= command.at]
            for hold in due:
                hold.state = "expired"
            taken = wallet.lapse(command.at)
            return (Outcome.DONE, taken) if due or taken else (Outcome.REPEATED,)
    earlier = wallet.holds.get(command.hold_id)  # the other commands refer to a hold
    return (Outcome.UNKNOWN,) if earlier is None else _on_hold(wallet, earlier, command)


def _on_hold(wallet: Wallet, hold: Held, command: Extend | Settle | Release) -> _Response:
    match command:
        case Extend():
            return _extend(wallet, hold, command)
        case Settle():
            return _settle(wallet, hold, command)
        case Release():
            if hold.state == "open":
                hold.state = "released"
                return (Outcome.DONE,)
            return (Outcome.REPEATED if hold.state == "released" else Outcome.NOT_OPEN,)


def _once(wallet: Wallet, command: TopUp | Grant | Correct) -> _Response:
    """Money in and corrections are identified by their ID, whenever they are sent."""
    match command:
        case TopUp():
            name, content = f"top_up:{command.payment_id}", (command.amount, command.priority, command.expires_at)
        case Grant():
            name, content = f"grant:{command.grant_id}", (command.amount, command.priority, command.expires_at)
        case Correct():
            name, content = f"correction:{command.correction_id}", (command.amount, 50, None)
    if name in wallet.seen:
        if wallet.seen[name] != content:
            raise Conflict(name)
        return Outcome.REPEATED, command.amount
    amount, priority, ends = content
    if isinstance(command, Correct) and amount > 0:
        _return(wallet, command, name)
    elif amount < 0:
        wallet.lapse(command.at)
        refused = wallet.short(-amount)
        if refused is not None:
            return (refused,)
        wallet.spend(-amount)
    else:
        lot = Lot(name, not isinstance(command, Grant), amount, priority, FOREVER if ends is None else ends, command.at)
        if lot.bought:
            wallet.bought(lot)
        else:
            wallet.lots.append(lot)
    wallet.seen[name] = content
    return Outcome.DONE, amount


def _return(wallet: Wallet, command: Correct, name: str) -> None:
    """Return money to the named lots, and the rest to a new one."""
    left, part = command.amount, 0
    for lot_id, most in command.into:
        lot = next((each for each in wallet.lots if each.lot_id == lot_id), None)
        given = 0 if lot is None or lot.ends <= command.at else min(left, most, lot.size - lot.left)
        if lot is None or given <= 0:
            continue
        lot.left += given
        left, part = left - given, part + 1
        if lot.bought:
            wallet.collect(lot, given)
    if left:
        filled = Lot(
            name if part == 0 else f"{name}/{part + 1}", command.book == "credit", left, 50, FOREVER, command.at
        )
        if filled.bought:
            wallet.bought(filled)
        else:
            wallet.lots.append(filled)


def _take_back(wallet: Wallet, command: TakeBack) -> _Response:
    content = (command.amount, command.payment_id)
    if command.cause in wallet.taken:
        if wallet.seen[command.cause] != content:
            raise Conflict(command.cause)
        return Outcome.REPEATED, wallet.taken[command.cause][1]
    wallet.lapse(command.at)
    there = min(command.amount, wallet.free, sum(lot.left for lot in wallet.lots if lot.bought))
    wallet.spend(there, first=f"top_up:{command.payment_id}")
    wallet.owed += command.amount - there
    wallet.taken[command.cause] = command.amount, there
    wallet.seen[command.cause] = content
    return Outcome.DONE, there


def _give_back(wallet: Wallet, command: GiveBack) -> _Response:
    if command.cause in wallet.seen:
        if wallet.seen[command.cause] != (command.amount,):
            raise Conflict(command.cause)
        return Outcome.REPEATED, command.amount
    taken, _ = wallet.taken.get(command.cause.replace("_failed", "").replace("_won", ""), (None, 0))
    if taken is None:
        return (Outcome.UNKNOWN,)
    if command.amount > taken:
        return (Outcome.REFUSED,)
    wallet.seen[command.cause] = (command.amount,)
    wallet.bought(Lot(command.cause, True, command.amount, 50, FOREVER, command.at))
    return Outcome.DONE, command.amount


def _refused(wallet: Wallet, more: int, whole: int, at: int) -> _Response | None:
    """The refusal of a hold or of an extension, if there is one."""
    if more == 0:
        return None
    outcome: Outcome | None = None
    if more > wallet.free:
        outcome = Outcome.REFUSED if whole > wallet.posted else Outcome.HELD_ELSEWHERE
    if wallet.limit is None:
        return None if outcome is None else (outcome,)
    spent = wallet.spent(at)
    if spent + whole > wallet.limit[0]:
        outcome = Outcome.LIMITED
    elif spent + wallet.held + more > wallet.limit[0] and outcome is None:
        outcome = Outcome.HELD_ELSEWHERE
    return None if outcome is None else (outcome, 0, 0, 0, wallet.limit[0], spent)


def _over_budget(wallet: Wallet, command: Hold) -> _Response | None:
    """The budget that refuses it: one that would refuse it permanently, if any; otherwise the one with the least
    room."""
    reserve = command.amount if command.reserve is None else command.reserve
    full = []
    for place, budget in enumerate(command.budgets):
        spent, held = wallet.counted(budget, "settled"), wallet.counted(budget, "open")
        if reserve and spent + held + reserve > budget.limit:
            full.append((spent + reserve <= budget.limit, budget.limit - spent - held, place, spent, held))
    if not full:
        return None
    in_time, _, place, spent, held = min(full)
    outcome = Outcome.HELD_ELSEWHERE if in_time else Outcome.LIMITED
    return outcome, 0, 0, 0, command.budgets[place].limit, spent, place, held


def _hold(wallet: Wallet, command: Hold) -> _Response:
    earlier = wallet.holds.get(command.hold_id)
    if earlier is not None:
        if earlier.asked != command.amount:
            raise Conflict(command.hold_id)
        return Outcome.REPEATED, earlier.amount
    wallet.lapse(command.at)
    refused = _refused(wallet, command.amount, command.amount, command.at)
    over = _over_budget(wallet, command)
    if over is not None and (refused is None or over[0] is Outcome.LIMITED):
        return over
    if refused is not None:
        return refused
    reserve = command.amount if command.reserve is None else command.reserve
    wallet.holds[command.hold_id] = Held(
        command.amount, command.amount, command.expires_at, budgets=command.budgets, counted=reserve
    )
    return Outcome.DONE, command.amount


def _extend(wallet: Wallet, hold: Held, command: Extend) -> _Response:
    if hold.state != "open":
        return (Outcome.NOT_OPEN,)
    if command.amount <= hold.amount and command.expires_at <= hold.ends:
        return Outcome.REPEATED, hold.amount
    more = max(0, command.amount - hold.amount)
    if more and hold.budgets:
        raise ValueError(command.hold_id)
    wallet.lapse(command.at)
    refused = _refused(wallet, more, hold.amount + more, command.counted_at or command.at)
    if refused is not None:
        return refused
    hold.amount += more
    hold.ends = max(hold.ends, command.expires_at)
    return Outcome.DONE, hold.amount


def _settle(wallet: Wallet, hold: Held, command: Settle) -> _Response:
    if hold.state == "settled":
        if hold.charge != command.amount:
            raise Conflict(command.hold_id)
        return Outcome.REPEATED, hold.charge - hold.lost, hold.lost
    if hold.state == "released":
        return (Outcome.NOT_OPEN,)
    late = hold.state == "expired"
    if late or command.amount > hold.amount:
        wallet.lapse(command.at)
    hold.state, hold.charge = "settled", command.amount
    paid = min(command.amount, wallet.free)
    hold.lost = command.amount - paid
    wallet.spend(paid)
    hold.counted = paid if command.counts is None else command.counts
    at = command.at if command.record is None else command.record.at
    if paid:
        wallet.usage.append((at, paid))
    if wallet.limit is not None and paid and (late or paid > hold.amount):
        return Outcome.DONE, paid, hold.lost, late, wallet.limit[0], wallet.spent(at)
    return Outcome.DONE, paid, hold.lost, late
