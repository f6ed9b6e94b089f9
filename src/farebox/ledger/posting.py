"""Posting: what each command does to balances, transfers, lots and holds (with its parts money_movements.py, lots.py,
rows.py and budgets.py). Only the fast paths write them too (batches.py, lanes.py): for ordinary holds, settles and
releases, and always the same rows as this module would.

`apply` runs one command inside the caller's transaction. It decides first and writes afterwards, so a refusal writes
nothing. Admission is exact because the account's row is read inside the transaction that changes it.
"""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from farebox.ledger import money_movements
from farebox.ledger.books import HOLD_STATES
from farebox.ledger.budgets import give_back, over_budget, reserve
from farebox.ledger.commands import (
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
from farebox.ledger.lots import all_unspent, draw, expire_lots
from farebox.ledger.money_movements import plain_id, shortage
from farebox.ledger.rows import BalanceRow, end_hold, read_balance, read_hold, save, transfer
from farebox.ledger.spending import add_to_window, spent_in_window
from farebox.ledger.triggers import after_fall, after_rise, request_top_up
from farebox.storage.activity import note_activity
from farebox.storage.calls import UNRECORDED, add_usage
from farebox.storage.sql import Connection, rows


def apply(connection: Connection, command: Command) -> Verdict:
    """Carry out one command inside the open transaction.

    Raises Conflict if the command's id was used before with other content.
    """
    balance = read_balance(connection, command.account_id)
    if balance is None:
        return Verdict(Outcome.UNKNOWN)
    posted = balance.posted
    verdict = _HANDLERS[type(command)](connection, balance, command)
    if balance.posted < posted:
        after_fall(connection, balance, posted, command.at)
    elif balance.posted > posted:
        after_rise(connection, balance)
    elif verdict.outcome is Outcome.REFUSED and isinstance(command, Hold | Extend):
        request_top_up(connection, balance, command.at)
    return verdict


def apply_left(connection: Connection, command: Command) -> Verdict:
    """`apply` for a command that a fast path (ledger.batches, ledger.lanes) has left to it; such commands are
    counted."""
    note_activity(connection, "ledger", "slow")
    return apply(connection, command)


# --- holds ------------------------------------------------------------------------------------------------------------


def _hold(connection: Connection, balance: BalanceRow, command: Hold) -> Verdict:
    if command.amount < 0:
        raise ValueError("a hold cannot be negative")
    plain_id(command.hold_id)
    earlier = read_hold(connection, balance, command.hold_id)
    if earlier is not None:
        if earlier.asked != command.amount:
            raise Conflict(f"hold {command.hold_id} was opened before with another amount")
        return balance.verdict(Outcome.REPEATED, earlier.amount)
    expired = expire_lots(connection, balance, command.at)
    refused = _refusal(connection, balance, command.amount, command.amount, command.counted_at or command.at)
    over = over_budget(connection, balance, command) if command.budgets else None
    if over is not None and (refused is None or over.outcome is Outcome.LIMITED):
        refused = over  # as with the account's limit: buying credit would not help
    if refused is not None:
        if expired:
            save(connection, balance)
        return refused
    connection.execute(
        "INSERT INTO holds (bucket, account_id, hold_id, asked, amount, state, owner, created_at, expires_at) "
        "VALUES (?, ?, ?, ?, ?, 'open', ?, ?, ?)",
        (
            balance.bucket, balance.account_id, command.hold_id, command.amount, command.amount, command.owner,
            command.at, command.expires_at,
        ),
    )  # fmt: skip
    if command.budgets:
        reserve(connection, balance, command)
    balance.held += command.amount
    save(connection, balance)
    return balance.verdict(Outcome.DONE, command.amount)


def _refusal(connection: Connection, balance: BalanceRow, more: int, whole: int, at: int) -> Verdict | None:
    """Why the account cannot hold `more`, for a hold that is then `whole` in all; None if it can.

    The limit is checked first: if it is exceeded, buying credit would not help.
    """
    if balance.limit_amount is None or more == 0:
        return None if more <= balance.available else balance.verdict(shortage(balance, whole))
    limit, spent = balance.limit_amount, spent_in_window(connection, balance, at)
    if more <= balance.available and spent + balance.held + more <= limit:
        return None
    outcome = Outcome.LIMITED if spent + whole > limit else shortage(balance, whole)
    return replace(balance.verdict(outcome), limit=limit, spent=spent)


def _extend(connection: Connection, balance: BalanceRow, command: Extend) -> Verdict:
    hold = read_hold(connection, balance, command.hold_id)
    if hold is None:
        return balance.verdict(Outcome.UNKNOWN)
    if hold.state != "open":
        return balance.verdict(Outcome.NOT_OPEN)
    if command.amount <= hold.amount and command.expires_at <= hold.expires_at:
        return balance.verdict(Outcome.REPEATED, hold.amount)
    more = max(command.amount - hold.amount, 0)
    if more and hold.budgets is not None:
        raise ValueError("a hold that counts in budgets is not raised")
    expired = expire_lots(connection, balance, command.at)
    refused = _refusal(connection, balance, more, hold.amount + more, command.counted_at or command.at)
    if refused is not None:
        if expired:
            save(connection, balance)
        return refused
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


def _settle(connection: Connection, balance: BalanceRow, command: Settle) -> Verdict:
    if command.amount < 0 or (command.counts or 0) < 0:
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
        # A hold keeps what it reserved; beyond that, only unexpired lots count.
        expire_lots(connection, balance, command.at)
    if not late:
        balance.held -= hold.amount  # from here on, `available` includes what this hold reserved
    taken = min(command.amount, balance.available)
    written_off = command.amount - taken
    if taken:
        draw(
            connection, balance, all_unspent(connection, balance), f"charge:{command.hold_id}", "charge", "revenue",
            taken, command.at, command.note,
        )  # fmt: skip
    if written_off:
        transfer(
            connection, balance, f"write_off:{command.hold_id}", "write_off", "written_off", "revenue", written_off,
            None, command.at,
        )  # fmt: skip
    end_hold(connection, balance, command.hold_id, "settled", command.amount, written_off)
    give_back(connection, balance, command.hold_id, hold, taken if command.counts is None else command.counts)
    save(connection, balance)
    verdict = balance.verdict(Outcome.DONE, taken, written_off, late=late)
    if taken:
        verdict = _count(connection, balance, command, verdict, beyond=late or taken > hold.amount)
    return _recorded(connection, balance, command, verdict)


def _count(connection: Connection, balance: BalanceRow, command: Settle, verdict: Verdict, *, beyond: bool) -> Verdict:
    """Count a charge if its record does not, and count it towards the account's spending limit. A charge above its hold
    may exceed the limit: the verdict then states the limit and what was spent."""
    at = command.at if command.record is None else command.record.at
    if balance.limit_amount is not None:
        if beyond:
            spent = spent_in_window(connection, balance, at) + verdict.amount
            verdict = replace(verdict, limit=balance.limit_amount, spent=spent)
        add_to_window(connection, balance, at, verdict.amount)
    if command.record is None:
        add_usage(connection, balance.bucket, balance.account_id, at, UNRECORDED, "", verdict.amount)
    return verdict


def _release(connection: Connection, balance: BalanceRow, command: Release) -> Verdict:
    hold = read_hold(connection, balance, command.hold_id)
    if hold is None:
        return balance.verdict(Outcome.UNKNOWN)
    if hold.state == "released":
        return balance.verdict(Outcome.REPEATED)
    if hold.state == "open":
        balance.held -= hold.amount
        end_hold(connection, balance, command.hold_id, "released", None, None)
        give_back(connection, balance, command.hold_id, hold, None)
        save(connection, balance)
    verdict = balance.verdict(Outcome.DONE if hold.state == "open" else Outcome.NOT_OPEN)
    return verdict if hold.state == "settled" else _recorded(connection, balance, command, verdict)


def _recorded(connection: Connection, balance: BalanceRow, command: Settle | Release, verdict: Verdict) -> Verdict:
    """Write the call's record with the end of its hold; also if the hold had already ended, because the call was
    made."""
    if command.record is not None:
        command.record.write(connection, balance.bucket, verdict)
    return verdict


def _expire(connection: Connection, balance: BalanceRow, command: Expire) -> Verdict:
    due = rows(
        connection,
        "SELECT hold_id FROM holds "
        "WHERE bucket = ? AND account_id = ? AND state = 'open' AND expires_at <= ? ORDER BY hold_id",
        (balance.bucket, balance.account_id, command.at),
    )
    for (hold_id,) in due:
        hold = read_hold(connection, balance, hold_id)
        assert hold is not None
        balance.held -= hold.amount
        end_hold(connection, balance, hold_id, "expired", None, None)
        give_back(connection, balance, hold_id, hold, None)
    taken = expire_lots(connection, balance, command.at)
    if not due and not taken:
        return balance.verdict(Outcome.REPEATED)
    save(connection, balance)
    return balance.verdict(Outcome.DONE, taken)


_HANDLERS: dict[type[Any], Callable[[Connection, BalanceRow, Any], Verdict]] = {
    TopUp: money_movements.top_up,
    Grant: money_movements.grant,
    TakeBack: money_movements.take_back,
    GiveBack: money_movements.give_back,
    Correct: money_movements.correct,
    Hold: _hold,
    Extend: _extend,
    Settle: _settle,
    Release: _release,
    Expire: _expire,
}
