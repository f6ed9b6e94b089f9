"""Re-rating: what calls should have been charged, now that a wrong price has been corrected; and the transfers for it.

The corrected price is set first, from the moment on from which it should have been valid (`farebox price set
--valid-from`). What a call should have cost is then what today's price book gives for the moment at which the call
began, computed in the same way as its charge. A call is corrected by the difference from what it has been charged so
far, including earlier corrections, so corrections already made are not made again. An interrupted re-rating can
therefore be repeated, and repeating a complete one changes nothing.

Times are milliseconds since the Unix epoch.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import msgspec

from farebox.calendar import DAY_MS, day_text
from farebox.ledger.commands import Correct, Outcome
from farebox.ledger.posting import apply
from farebox.model import Operator
from farebox.pricing.bill import at_highest, doubts_of
from farebox.pricing.compiler import Context
from farebox.pricing.model import ModelPrice
from farebox.pricing.pricebook import PriceBook
from farebox.pricing.receipt import Receipt
from farebox.pricing.reprice import NotRepriced, PricedModel, reprice
from farebox.pricing.stored_receipt import whole
from farebox.storage import corrections as store
from farebox.storage.accounts import find_account, list_accounts
from farebox.storage.corrections import CallToPrice, Correction, LotDraws
from farebox.storage.notices import add_notice
from farebox.storage.operator_actions import record_action
from farebox.storage.sql import Connection
from farebox.usage import Usage

PREFIX = "rerate:"
"""Prefix of the IDs of its corrections, and of no others."""
BATCH = 500
"""Calls that are read at once, and the most that are corrected in one transaction."""


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """Which calls are priced again. Times in milliseconds since the Unix epoch."""

    provider: str
    """The provider's slug."""
    model: str | None = None
    """A name as the call or the price list has it; or a prefix followed by `*`; None: all models of the provider."""
    version: str | None = None
    """Only what was charged at the price with this version, as receipts show it."""
    start: int
    end: int
    """Calls that began from `start` on and before `end`."""
    account_id: str | None = None
    """None: all accounts."""
    increases: bool = False
    """Whether calls that cost too little are charged the rest."""
    markups: bool = False
    """Whether to use today's markups for that time instead of those of the receipts."""

    def names(self, model: str) -> bool:
        """Whether it includes this model."""
        if self.model is None:
            return True
        wanted, name = self.model.lower(), model.lower()
        return name.startswith(wanted[:-1]) if wanted.endswith("*") else name == wanted


@dataclass(frozen=True, slots=True)
class CorrectedCharge:
    """A call that should have been charged `charge` nano-dollars, before any write-off."""

    log_id: str
    created_at: int
    taken: int
    """Nano-dollars that it was charged."""
    written_off: int
    """Nano-dollars that the account could not pay then: they stay the operator's loss."""
    charge: int
    version: str

    def correction(self, corrected: int) -> int:
        """Nano-dollars to give back; below zero: to charge. `corrected` is what was given back before."""
        so_far = self.taken - corrected
        if self.charge < so_far:
            return so_far - self.charge
        return min(0, so_far + self.written_off - self.charge)


@dataclass(slots=True)
class Tally:
    """What a re-rating would change for one account, or has changed. Nano-dollars."""

    account_id: str
    calls: int = 0
    """Number of calls that it concerns."""
    given_back: int = 0
    given_back_calls: int = 0
    charged: int = 0
    charged_calls: int = 0
    undercharged: int = 0
    """What calls were charged too little that is not charged now: it was not requested, or the balance does not cover
    it."""
    undercharged_calls: int = 0
    left: Counter[str] = field(default_factory=Counter)
    """Calls that cannot be priced again, by reason (NotRepriced)."""

    @property
    def affected(self) -> bool:
        return bool(self.given_back_calls or self.charged_calls or self.undercharged_calls or self.left)

    def count(self, amount: int, *, charges: bool) -> None:
        """Count one correction."""
        if amount > 0:
            self.given_back += amount
            self.given_back_calls += 1
        elif amount < 0 and charges:
            self.charged -= amount
            self.charged_calls += 1
        elif amount < 0:
            self.undercharged -= amount
            self.undercharged_calls += 1


def accounts_of(connection: Connection, spec: Spec) -> Iterator[str]:
    """The accounts whose calls are examined."""
    if spec.account_id is not None:
        yield spec.account_id
        return
    yield from every_account(connection)


def every_account(connection: Connection) -> Iterator[str]:
    """The IDs of all accounts, read some hundred at a time."""
    page = list_accounts(connection)
    while page:
        yield from (account.account_id for account in page)
        page = list_accounts(connection, after=page[-1].account_id)


def changes(connection: Connection, book: PriceBook, spec: Spec, tally: Tally) -> Iterator[list[CorrectedCharge]]:
    """The account's calls that are priced again, some hundred at a time, in the order in which they began. Calls that
    cannot be are counted in the tally."""
    after = ""
    while calls := store.page_of_calls(
        connection, tally.account_id, after=after, start=spec.start, end=spec.end, limit=BATCH
    ):
        after = calls[-1].log_id
        found: list[CorrectedCharge] = []
        for call in calls:
            change = _change(book, spec, call)
            if isinstance(change, NotRepriced):
                tally.left[change] += 1
            elif change is not None:
                found.append(change)
            tally.calls += change is not None
        if found:
            yield found


def forecast(connection: Connection, spec: Spec, page: Sequence[CorrectedCharge], tally: Tally) -> None:
    """Count by how much these calls would be corrected."""
    before = store.corrected_between(connection, tally.account_id, page[0].log_id, page[-1].log_id)
    for change in page:
        tally.count(change.correction(before.get(change.log_id, 0)), charges=spec.increases)


def batches(page: Sequence[CorrectedCharge]) -> Iterator[list[CorrectedCharge]]:
    """The calls that are corrected by one transfer each: those of one day."""
    for _, of_day in groupby(page, key=lambda change: change.created_at // DAY_MS):
        yield list(of_day)


def begin(connection: Connection, spec: Spec, new_id: str, at: int, *, by: Operator) -> str:
    """The ID of the re-rating: that of an interrupted one, if it had the same request."""
    rerate_id = store.begin_rerate(connection, msgspec.json.encode(spec).decode(), new_id, at)
    after = msgspec.to_builtins(spec)
    record_action(connection, by, "rerate.begin", at, account_id=spec.account_id or "", subject=rerate_id, after=after)
    return rerate_id


def finish(connection: Connection, rerate_id: str, at: int) -> None:
    """Note that all accounts have been corrected."""
    store.finish_rerate(connection, rerate_id, at)


@dataclass(slots=True)
class Lots:
    """The lots that an account's money goes back to: as if the charges had been smaller, which would have left more in
    the lots that they drew on last."""

    book: str
    """The book for what fits in none of them."""
    left: dict[str, int]
    """Lot → nano-dollars that charges took from it since the period began, in that order."""

    @classmethod
    def of(cls, drawn: Sequence[LotDraws]) -> "Lots":
        bought = any(lot.book == "credit" for lot in drawn) or not drawn
        return cls("credit" if bought else "granted", {lot.lot_id: lot.amount for lot in drawn})

    def take(self, given: Mapping[str, int]) -> None:
        for lot_id, amount in given.items():
            if lot_id in self.left:
                self.left[lot_id] -= amount


def lots_of(connection: Connection, spec: Spec, account_id: str) -> Lots:
    """The lots that the account's charges drew on since the period began. Reads all of its transfers."""
    return Lots.of(store.drawn_since(connection, account_id, spec.start))


def post(
    connection: Connection,
    spec: Spec,
    rerate_id: str,
    batch: Sequence[CorrectedCharge],
    lots: Lots,
    tally: Tally,
    at: int,
) -> None:
    """Correct these calls of one day, in the caller's open transaction."""
    before = store.corrected_between(connection, tally.account_id, batch[0].log_id, batch[-1].log_id)
    wanted = [(change, change.correction(before.get(change.log_id, 0))) for change in batch]
    back = [(change, amount) for change, amount in wanted if amount > 0]
    more = [(change, amount) for change, amount in wanted if amount < 0]
    note = f"{spec.provider}/{spec.model or '*'} priced again, calls of {day_text(batch[0].created_at)}"
    if back:
        cause = f"{PREFIX}{rerate_id}:{back[0][0].log_id}"
        command = Correct(
            account_id=tally.account_id, correction_id=cause, amount=sum(amount for _, amount in back), at=at,
            reason=note, into=tuple((lot, most) for lot, most in lots.left.items() if most > 0),
            book="credit" if lots.book == "credit" else "granted",
        )  # fmt: skip
        verdict = apply(connection, command)
        assert verdict.outcome is Outcome.DONE, f"{cause} was {verdict.outcome}"
        lots.take(store.given_to_lots(connection, tally.account_id, cause))
        _record(connection, rerate_id, cause, back, tally, at)
    if more and spec.increases:
        more = _charge(connection, rerate_id, more, note, tally, at)
    for _, amount in more:
        tally.count(amount, charges=False)


def _charge(
    connection: Connection, rerate_id: str, more: list[tuple[CorrectedCharge, int]], note: str, tally: Tally, at: int
) -> list[tuple[CorrectedCharge, int]]:
    """Charge what these calls cost too little, as far as the account has money available; returns the remaining
    calls."""
    cause = f"{PREFIX}{rerate_id}:{more[0][0].log_id}:more"
    fitting, rest = more, more[:0]
    while fitting:
        amount = sum(amount for _, amount in fitting)
        command = Correct(account_id=tally.account_id, correction_id=cause, amount=amount, at=at, reason=note)
        verdict = apply(connection, command)
        if verdict.outcome is Outcome.DONE:
            _record(connection, rerate_id, cause, fitting, tally, at)
            break
        fitting = _covered(fitting, verdict.available)
        rest = more[len(fitting) :]
    return rest


def _covered(more: list[tuple[CorrectedCharge, int]], available: int) -> list[tuple[CorrectedCharge, int]]:
    """The first calls, as many as `available` pays for."""
    count = 0
    for _, amount in more:
        available += amount
        if available < 0:
            break
        count += 1
    return more[:count]


def _record(
    connection: Connection,
    rerate_id: str,
    cause: str,
    corrected: list[tuple[CorrectedCharge, int]],
    tally: Tally,
    at: int,
) -> None:
    found = [
        Correction(change.log_id, rerate_id, amount, change.charge, change.version, cause, at)
        for change, amount in corrected
    ]
    store.add_corrections(connection, tally.account_id, found)
    for _, amount in corrected:
        tally.count(amount, charges=True)


def notify(connection: Connection, spec: Spec, rerate_id: str, account_id: str, at: int) -> None:
    """Notify the account of the corrections, once, in the caller's open transaction."""
    account, sums = find_account(connection, account_id), store.sums_of(connection, account_id, rerate_id)
    if account is None or not sums.calls:
        return
    content: dict[str, object] = {
        "rerate_id": rerate_id,
        "provider": spec.provider,
        "model": spec.model,
        "from": spec.start,
        "to": spec.end,
        "calls": sums.calls,
        "given_back_nanos": sums.given_back,
        "charged_nanos": sums.charged,
    }
    notice_id = f"charges_corrected:{rerate_id}"
    add_notice(connection, account.bucket, account_id, notice_id, "charges_corrected", content, at)


def _change(book: PriceBook, spec: Spec, call: CallToPrice) -> CorrectedCharge | NotRepriced | None:
    """The call at today's price; None if it is not among the requested ones."""
    if call.row.provider != spec.provider or call.row.outcome != "charged":
        return None
    receipt = whole(call.row)
    markup = None
    if spec.markups:
        markup = book.markup(call.row.account_id, spec.provider, receipt.model, call.created_at)
    found = reprice(receipt, _wanted(spec, receipt), price_finder(book, receipt, call.created_at), book.meters, markup)
    if found is None or isinstance(found, NotRepriced):
        return found
    return CorrectedCharge(
        call.log_id, call.created_at, call.row.charge, receipt.written_off_nanos, found.charge, found.version
    )


def _wanted(spec: Spec, receipt: Receipt) -> Callable[[PricedModel], bool]:
    def wanted(part: PricedModel) -> bool:
        named = spec.names(part.model) or (part.own and spec.names(receipt.model))
        return named and spec.version in (None, part.version)

    return wanted


def price_finder(
    book: PriceBook, receipt: Receipt, at: int
) -> Callable[[PricedModel, Context, Usage], ModelPrice | None]:
    """Returns a function that finds what the models of a receipt cost at that time, by this book."""

    def find(part: PricedModel, context: Context, usage: Usage) -> ModelPrice | None:
        requested = receipt.model if part.own else part.model
        name = book.priced_at(receipt.account_id, receipt.provider, requested, part.model, at)
        price = book.find(receipt.account_id, receipt.provider, name, at, context or None)
        doubts = "" if price is None else doubts_of(price, usage)
        return (
            price if price is None or not doubts else at_highest(price, doubts, book.highest_factor(receipt.provider))
        )

    return find
