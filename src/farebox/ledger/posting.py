"""Posting: the only code that writes balances, transfers, lots and holds.

`apply` runs one command inside the caller's transaction. It decides first and writes afterwards, so that a refusal has
written nothing. Admission is exact because the account's row is read inside the transaction that changes it.
"""

from collections.abc import Callable
from typing import Any

from farebox.ledger.books import HOLD_STATES
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
from farebox.ledger.rows import Balance, end_hold, is_credit, read_balance, read_hold, save, sum_of_parts, transfer
from farebox.storage.sqlite import Connection, row, rows


def apply(connection: Connection, command: Command) -> Verdict:
    """Carry out one command inside the open transaction.

    Raises Conflict where the command's id was used before with other content.
    """
    balance = read_balance(connection, command.account_id)
    if balance is None:
        return Verdict(Outcome.UNKNOWN)
    return _HANDLERS[type(command)](connection, balance, command)


# --- money in ---------------------------------------------------------------------------------------------------------


def _top_up(connection: Connection, balance: Balance, command: TopUp) -> Verdict:
    return _fill(connection, balance, command, "top_up", f"top_up:{command.payment_id}", "processor", "credit")


def _grant(connection: Connection, balance: Balance, command: Grant) -> Verdict:
    return _fill(connection, balance, command, "grant", f"grant:{command.grant_id}", "promotion", "granted")


def _fill(
    connection: Connection, balance: Balance, command: TopUp | Grant, kind: str, lot_id: str, source: str, book: str
) -> Verdict:
    """Fill a new lot. The lot's id is the transfer's: both are named after the payment or grant."""
    _positive(command.amount)
    earlier = row(
        connection,
        "SELECT amount, priority, expires_at FROM lots WHERE bucket = ? AND account_id = ? AND lot_id = ?",
        (balance.bucket, balance.account_id, lot_id),
    )
    if earlier is not None:
        if earlier != (command.amount, command.priority, command.expires_at):
            raise Conflict(f"{lot_id} was posted before with other content")
        return balance.verdict(Outcome.REPEATED, command.amount)
    _open_lot(connection, balance, lot_id, book, command.amount, command.priority, command.expires_at, command.at)
    note = command.note if isinstance(command, Grant) else ""
    transfer(connection, balance, lot_id, kind, source, book, command.amount, lot_id, command.at, note)
    save(connection, balance)
    return balance.verdict(Outcome.DONE, command.amount)


def _correct(connection: Connection, balance: Balance, command: Correct) -> Verdict:
    _plain_id(command.correction_id)
    transfer_id = f"correction:{command.correction_id}"
    earlier = sum_of_parts(connection, balance, transfer_id)
    if earlier is not None:
        if earlier != abs(command.amount) or is_credit(connection, balance, transfer_id) != (command.amount > 0):
            raise Conflict(f"{transfer_id} was posted before with another amount")
        return balance.verdict(Outcome.REPEATED, command.amount)
    if command.amount > 0:
        _open_lot(connection, balance, transfer_id, "credit", command.amount, 50, None, command.at)
        transfer(
            connection, balance, transfer_id, "correction", "revenue", "credit", command.amount, transfer_id,
            command.at, command.reason,
        )  # fmt: skip
    else:
        _positive(-command.amount)
        _expire_lots(connection, balance, command.at)
        if -command.amount > balance.available:
            save(connection, balance)
            return balance.verdict(_shortage(balance, -command.amount))
        _draw(connection, balance, transfer_id, "correction", -command.amount, command.at, command.reason)
    save(connection, balance)
    return balance.verdict(Outcome.DONE, command.amount)


# --- holds ------------------------------------------------------------------------------------------------------------


def _hold(connection: Connection, balance: Balance, command: Hold) -> Verdict:
    if command.amount < 0:
        raise ValueError("a hold cannot be negative")
    _plain_id(command.hold_id)
    earlier = read_hold(connection, balance, command.hold_id)
    if earlier is not None:
        if earlier.asked != command.amount:
            raise Conflict(f"hold {command.hold_id} was opened before with another amount")
        return balance.verdict(Outcome.REPEATED, earlier.amount)
    expired = _expire_lots(connection, balance, command.at)
    if command.amount > balance.available:
        if expired:
            save(connection, balance)
        return balance.verdict(_shortage(balance, command.amount))
    connection.execute(
        "INSERT INTO holds (bucket, account_id, hold_id, asked, amount, state, owner, created_at, expires_at) "
        "VALUES (?, ?, ?, ?, ?, 'open', ?, ?, ?)",
        (
            balance.bucket, balance.account_id, command.hold_id, command.amount, command.amount, command.owner,
            command.at, command.expires_at,
        ),
    )  # fmt: skip
    balance.held += command.amount
    save(connection, balance)
    return balance.verdict(Outcome.DONE, command.amount)


def _extend(connection: Connection, balance: Balance, command: Extend) -> Verdict:
    hold = read_hold(connection, balance, command.hold_id)
    if hold is None:
        return balance.verdict(Outcome.UNKNOWN)
    if hold.state != "open":
        return balance.verdict(Outcome.NOT_OPEN)
    if command.amount <= hold.amount and command.expires_at <= hold.expires_at:
        return balance.verdict(Outcome.REPEATED, hold.amount)
    more = max(command.amount - hold.amount, 0)
    expired = _expire_lots(connection, balance, command.at)
    if more > balance.available:
        if expired:
            save(connection, balance)
        return balance.verdict(_shortage(balance, hold.amount + more))
    connection.execute(
        "UPDATE holds SET amount = ?, expires_at = ? WHERE bucket = ? AND account_id = ? AND hold_id = ?",
        (
            hold.amount + more, max(command.expires_at, hold.expires_at), balance.bucket, balance.account_id,
            command.hold_id,
        ),
    )  # fmt: skip
    balance.held += more
    save(connection, balance)
    return balance.verdict(Outcome.DONE, hold.amount + more)


def _settle(connection: Connection, balance: Balance, command: Settle) -> Verdict:
    if command.amount < 0:
        raise ValueError("a charge cannot be negative")
    hold = read_hold(connection, balance, command.hold_id)
    if hold is None:
        return balance.verdict(Outcome.UNKNOWN)
    if hold.state == "settled":
        if hold.charge != command.amount:
            raise Conflict(f"hold {command.hold_id} was settled before with another amount")
        return balance.verdict(Outcome.REPEATED, hold.charge - hold.written_off, hold.written_off)
    if "settled" not in HOLD_STATES[hold.state]:
        return _recorded(connection, balance, command, balance.verdict(Outcome.NOT_OPEN))
    late = hold.state == "expired"
    if late or command.amount > hold.amount:
        _expire_lots(connection, balance, command.at)  # a hold keeps what it was given; beyond it, only what is valid
    if not late:
        balance.held -= hold.amount  # from here on `available` contains what this hold kept
    taken = min(command.amount, balance.available)
    written_off = command.amount - taken
    if taken:
        _draw(connection, balance, f"charge:{command.hold_id}", "charge", taken, command.at)
    if written_off:
        transfer(
            connection, balance, f"write_off:{command.hold_id}", "write_off", "written_off", "revenue", written_off,
            None, command.at,
        )  # fmt: skip
    end_hold(connection, balance, command.hold_id, "settled", command.amount, written_off)
    save(connection, balance)
    return _recorded(connection, balance, command, balance.verdict(Outcome.DONE, taken, written_off, late=late))


def _release(connection: Connection, balance: Balance, command: Release) -> Verdict:
    hold = read_hold(connection, balance, command.hold_id)
    if hold is None:
        return balance.verdict(Outcome.UNKNOWN)
    if hold.state == "released":
        return balance.verdict(Outcome.REPEATED)
    if hold.state == "open":
        balance.held -= hold.amount
        end_hold(connection, balance, command.hold_id, "released", None, None)
        save(connection, balance)
    verdict = balance.verdict(Outcome.DONE if hold.state == "open" else Outcome.NOT_OPEN)
    return verdict if hold.state == "settled" else _recorded(connection, balance, command, verdict)


def _recorded(connection: Connection, balance: Balance, command: Settle | Release, verdict: Verdict) -> Verdict:
    """Write the call's record beside the end of its hold; also where the hold had ended, for the call was made."""
    if command.record is not None:
        command.record.write(connection, balance.bucket, verdict)
    return verdict


def _expire(connection: Connection, balance: Balance, command: Expire) -> Verdict:
    due = rows(
        connection,
        "SELECT hold_id, amount FROM holds "
        "WHERE bucket = ? AND account_id = ? AND state = 'open' AND expires_at <= ? ORDER BY hold_id",
        (balance.bucket, balance.account_id, command.at),
    )
    for hold_id, amount in due:
        balance.held -= amount
        end_hold(connection, balance, hold_id, "expired", None, None)
    taken = _expire_lots(connection, balance, command.at)
    if not due and not taken:
        return balance.verdict(Outcome.REPEATED)
    save(connection, balance)
    return balance.verdict(Outcome.DONE, taken)


# --- lots -------------------------------------------------------------------------------------------------------------

SPENDING_ORDER = "priority, book = 'credit', expires_at IS NULL, expires_at, created_at, lot_id"
"""Lower priority first; then grants before bought credit; then the earliest expiry; then the oldest."""


def _draw(
    connection: Connection, balance: Balance, transfer_id: str, kind: str, amount: int, at: int, note: str = ""
) -> None:
    """Move `amount` from the account's lots to revenue, one transfer a lot, in spending order."""
    lots = rows(
        connection,
        "SELECT lot_id, book, remaining FROM lots INDEXED BY lots_unspent "
        f"WHERE bucket = ? AND account_id = ? AND remaining > 0 ORDER BY {SPENDING_ORDER}",
        (balance.bucket, balance.account_id),
    )
    left = amount
    for part, (lot_id, book, remaining) in enumerate(lots):
        taken = min(left, remaining)
        _take_from_lot(connection, balance, lot_id, taken)
        part_id = transfer_id if part == 0 else f"{transfer_id}/{part + 1}"
        transfer(connection, balance, part_id, kind, book, "revenue", taken, lot_id, at, note)
        left -= taken
        if left == 0:
            return
    raise AssertionError(f"lots of {balance.account_id} hold {amount - left}, less than the {amount} to draw")


def _expire_lots(connection: Connection, balance: Balance, at: int) -> int:
    """Take what is left of the lots whose expiry has passed, as far as open holds do not keep it; return the sum.

    The balance is changed but not saved.
    """
    due = rows(
        connection,
        "SELECT lot_id, book, remaining FROM lots INDEXED BY lots_unspent "
        "WHERE bucket = ? AND account_id = ? AND remaining > 0 AND expires_at <= ? ORDER BY expires_at, lot_id",
        (balance.bucket, balance.account_id, at),
    )
    total = 0
    for lot_id, book, remaining in due:
        taken = min(remaining, balance.available)
        if taken == 0:
            break
        _take_from_lot(connection, balance, lot_id, taken)
        transfer_id = f"expiry:{lot_id}/{balance.version + 1}"  # a lot may expire in parts, as holds give way
        transfer(connection, balance, transfer_id, "expiry", book, "expired", taken, lot_id, at)
        total += taken
    return total


def _open_lot(
    connection: Connection,
    balance: Balance,
    lot_id: str,
    book: str,
    amount: int,
    priority: int,
    expires_at: int | None,
    at: int,
) -> None:
    connection.execute(
        "INSERT INTO lots (bucket, account_id, lot_id, book, amount, remaining, priority, expires_at, created_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (balance.bucket, balance.account_id, lot_id, book, amount, amount, priority, expires_at, at),
    )


def _take_from_lot(connection: Connection, balance: Balance, lot_id: str, amount: int) -> None:
    connection.execute(
        "UPDATE lots SET remaining = remaining - ? WHERE bucket = ? AND account_id = ? AND lot_id = ?",
        (amount, balance.bucket, balance.account_id, lot_id),
    )


def _shortage(balance: Balance, amount: int) -> Outcome:
    return Outcome.REFUSED if amount > balance.posted else Outcome.HELD_ELSEWHERE


def _positive(amount: int) -> None:
    if amount <= 0:
        raise ValueError("an amount must be above zero")


def _plain_id(cause: str) -> None:
    if "/" in cause:
        raise ValueError(f"{cause!r} cannot be an id: `/` sets off the parts of a transfer that draws on several lots")


_HANDLERS: dict[type[Any], Callable[[Connection, Balance, Any], Verdict]] = {
    TopUp: _top_up,
    Grant: _grant,
    Hold: _hold,
    Extend: _extend,
    Settle: _settle,
    Release: _release,
    Expire: _expire,
    Correct: _correct,
}
