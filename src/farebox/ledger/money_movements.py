"""Money in, money taken back, corrections: the commands that are not about a hold. Part of posting."""

from collections.abc import Mapping

from farebox.ledger.books import GIVEN_BACK, RECEIVABLE, TAKEN_BACK
from farebox.ledger.commands import Conflict, Correct, GiveBack, Grant, Outcome, TakeBack, TopUp, Verdict
from farebox.ledger.lots import (
    all_unspent,
    bought_unspent,
    draw,
    expire_lots,
    open_lot,
    put_back,
    read_lot,
    take,
)
from farebox.ledger.rows import BalanceRow, gives_back, part_id, read_taken_back, save, sum_of_parts, transfer
from farebox.quoting import quoted
from farebox.storage.sql import Connection, row


def top_up(connection: Connection, balance: BalanceRow, command: TopUp) -> Verdict:
    return _fill(connection, balance, command, "top_up", f"top_up:{command.payment_id}", "processor", "credit")


def grant(connection: Connection, balance: BalanceRow, command: Grant) -> Verdict:
    return _fill(connection, balance, command, "grant", f"grant:{command.grant_id}", "promotion", "granted")


def _fill(
    connection: Connection, balance: BalanceRow, command: TopUp | Grant, kind: str, lot_id: str, source: str, book: str
) -> Verdict:
    """Fill a new lot. The lot's id is the transfer's: both are named after the payment or grant."""
    if _filled_before(connection, balance, lot_id, command.amount, command.priority, command.expires_at):
        return balance.verdict(Outcome.REPEATED, command.amount)
    open_lot(connection, balance, lot_id, book, command.amount, command.priority, command.expires_at, command.at)
    note = command.note if isinstance(command, Grant) else ""
    transfer(connection, balance, lot_id, kind, source, book, command.amount, lot_id, command.at, note)
    if book == "credit":
        _collect(connection, balance, lot_id, command.amount, lot_id, command.at)
    save(connection, balance)
    return balance.verdict(Outcome.DONE, command.amount)


def _filled_before(
    connection: Connection, balance: BalanceRow, lot_id: str, amount: int, priority: int, expires_at: int | None
) -> bool:
    """Whether the lot was filled before with this content. Raises Conflict if it was filled with other content."""
    positive(amount)
    earlier = row(
        connection,
        "SELECT amount, priority, expires_at FROM lots WHERE bucket = ? AND account_id = ? AND lot_id = ?",
        (balance.bucket, balance.account_id, lot_id),
    )
    if earlier is not None and earlier != (amount, priority, expires_at):
        raise Conflict(f"{lot_id} was posted before with other content", amount=earlier[0])
    return earlier is not None


def _collect(connection: Connection, balance: BalanceRow, lot_id: str, amount: int, transfer_id: str, at: int) -> None:
    """Pay what the account owes from a lot of bought credit to which a transfer has just brought `amount`."""
    paid = min(balance.owed, amount)
    if paid:
        take(connection, balance, lot_id, paid)
        transfer(connection, balance, f"collection:{transfer_id}", "collection", "credit", RECEIVABLE, paid, lot_id, at)


def take_back(connection: Connection, balance: BalanceRow, command: TakeBack) -> Verdict:
    positive(command.amount)
    kind, _ = _cause(command.cause, TAKEN_BACK)
    lot_id = f"top_up:{command.payment_id}"
    earlier = read_taken_back(connection, balance, command.cause)
    if earlier is not None:
        if (earlier.amount, earlier.note) != (command.amount, lot_id):
            raise Conflict(f"{command.cause} was posted before with another amount, or of another payment")
        return balance.verdict(Outcome.REPEATED, earlier.from_lots)
    expire_lots(connection, balance, command.at)
    unspent = bought_unspent(connection, balance, first=lot_id)
    taken = min(command.amount, balance.available, sum(remaining for _, _, remaining in unspent))
    book, parts = TAKEN_BACK[kind], 0
    if taken:
        parts = draw(connection, balance, unspent, command.cause, kind, book, taken, command.at, lot_id)
    if command.amount > taken:
        transfer(
            connection, balance, part_id(command.cause, parts), kind, RECEIVABLE, book, command.amount - taken, None,
            command.at, lot_id,
        )  # fmt: skip
    save(connection, balance)
    return balance.verdict(Outcome.DONE, taken)


def give_back(connection: Connection, balance: BalanceRow, command: GiveBack) -> Verdict:
    kind, cause_id = _cause(command.cause, GIVEN_BACK)
    if _filled_before(connection, balance, command.cause, command.amount, 50, None):
        return balance.verdict(Outcome.REPEATED, command.amount)
    why = GIVEN_BACK[kind]
    taken = read_taken_back(connection, balance, f"{why}:{cause_id}")
    if taken is None:
        return balance.verdict(Outcome.UNKNOWN)
    if command.amount > taken.amount:
        return balance.verdict(Outcome.REFUSED)
    open_lot(connection, balance, command.cause, "credit", command.amount, 50, None, command.at)
    transfer(
        connection, balance, command.cause, kind, TAKEN_BACK[why], "credit", command.amount, command.cause, command.at,
        taken.note,
    )  # fmt: skip
    _collect(connection, balance, command.cause, command.amount, command.cause, command.at)
    save(connection, balance)
    return balance.verdict(Outcome.DONE, command.amount)


def correct(connection: Connection, balance: BalanceRow, command: Correct) -> Verdict:
    plain_id(command.correction_id)
    transfer_id = f"correction:{command.correction_id}"
    earlier = sum_of_parts(connection, balance, transfer_id)
    if earlier is not None:
        if earlier != abs(command.amount) or gives_back(connection, balance, transfer_id) != (command.amount > 0):
            raise Conflict(f"{transfer_id} was posted before with another amount", amount=earlier)
        return balance.verdict(Outcome.REPEATED, command.amount)
    if command.amount > 0:
        _return(connection, balance, command, transfer_id)
    else:
        positive(-command.amount)
        expire_lots(connection, balance, command.at)
        if -command.amount > balance.available:
            save(connection, balance)
            return balance.verdict(shortage(balance, -command.amount))
        unspent = all_unspent(connection, balance)
        draw(
            connection, balance, unspent, transfer_id, "correction", "revenue", -command.amount, command.at,
            command.reason,
        )  # fmt: skip
    save(connection, balance)
    return balance.verdict(Outcome.DONE, command.amount)


def _return(connection: Connection, balance: BalanceRow, command: Correct, transfer_id: str) -> None:
    """Give back the amount of a correction, one transfer per lot."""
    left, part = command.amount, 0
    for lot_id, most in command.into:
        lot = read_lot(connection, balance, lot_id)
        given = 0 if lot is None or lot.expired(command.at) else min(left, most, lot.lacks)
        if lot is None or given <= 0:
            continue
        put_back(connection, balance, lot_id, given)
        _correction(connection, balance, command, part_id(transfer_id, part), lot.book, lot_id, given)
        left, part = left - given, part + 1
    if left:
        filled = part_id(transfer_id, part)
        open_lot(connection, balance, filled, command.book, left, 50, None, command.at)
        _correction(connection, balance, command, filled, command.book, filled, left)


def _correction(
    connection: Connection, balance: BalanceRow, command: Correct, transfer_id: str, book: str, lot_id: str, amount: int
) -> None:
    transfer(
        connection, balance, transfer_id, "correction", "revenue", book, amount, lot_id, command.at, command.reason
    )
    if book == "credit":
        _collect(connection, balance, lot_id, amount, transfer_id, command.at)


def shortage(balance: BalanceRow, amount: int) -> Outcome:
    """The outcome that says why `amount` is not available."""
    return Outcome.REFUSED if amount > balance.posted else Outcome.HELD_ELSEWHERE


def positive(amount: int) -> None:
    if amount <= 0:
        raise ValueError("an amount must be above zero")


def plain_id(cause: str) -> None:
    if "/" in cause:
        raise ValueError(
            f"{quoted(cause)} cannot be an id: `/` sets off the parts of a transfer that draws on several lots"
        )


def _cause(cause: str, kinds: Mapping[str, str]) -> tuple[str, str]:
    """The kind of transfer and the ID, from `kind:id`."""
    plain_id(cause)
    kind, _, cause_id = cause.partition(":")
    if kind not in kinds or not cause_id:
        raise ValueError(f"{quoted(cause)} is not a valid cause: write {' or '.join(f'{known}:ID' for known in kinds)}")
    return kind, cause_id
