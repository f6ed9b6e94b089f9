"""The arguments and results of the PostgreSQL function `ledger_batch`. For ledger.lanes."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from farebox.ledger.budgets import encode_slots
from farebox.ledger.commands import Budget, CallWritten, Command, Hold, Outcome, Release, Settle, Verdict
from farebox.storage.calls import UNRECORDED, CallRow, encode_detail
from farebox.storage.postgres.dialect import storable

FENCED = 6
UNKNOWN = 5
_SETTLE, _RELEASE, _ALONE = 1, 2, 3
_OUTCOMES = (None, Outcome.DONE, Outcome.REFUSED, Outcome.HELD_ELSEWHERE, Outcome.LIMITED, None, None)
_END_COLUMNS, _HOLD_COLUMNS = 22, 9
_NO_BUDGETS: list[Sequence[Any] | None] = [None] * 8
_NO_ROW = (None, UNRECORDED, "", *(None,) * 11)
"""Placeholder for a call's row if none is written; the charge is still counted under a provider and a model."""
_NOT_ASKED: tuple[int | None, int, int, int] = (None, 0, 0, 0)
"""For a verdict that says nothing about a limit."""

Values: TypeAlias = tuple[Any, ...]


class Item:
    """A command in progress, or the row of a call for which nothing was held."""

    __slots__ = ("account_id", "command", "fenced", "future", "key", "record", "values")

    def __init__(
        self,
        account_id: str,
        key: str,
        command: Hold | Settle | Release | None,
        record: CallWritten | None,
        values: Values,
        future: "asyncio.Future[Verdict]",
    ) -> None:
        self.account_id = account_id
        self.key = key
        """The hold's id, which is the call's."""
        self.command = command
        self.record = record
        """The call's record, if there is no command."""
        self.values = values
        """Arguments of the function, without the position of the account."""
        self.future = future
        self.fenced = False
        """Whether it was sent before and was fenced."""


def values_of(command: Command) -> Values | None:
    """The function's arguments for the command; None if it is a job from the start."""
    if isinstance(command, Hold):
        if command.amount < 0 or "/" in command.hold_id:
            return None  # it fails there
        counted = command.counted_at or command.at
        reserve, slots = (command.reserved, encode_slots(command.budgets)) if command.budgets else (None, None)
        hold_id, amount, at = command.hold_id, command.amount, command.at
        return (hold_id, amount, at, counted, command.expires_at, command.owner, reserve, slots)
    if isinstance(command, Settle):
        if command.amount < 0 or (command.counts or 0) < 0:
            return None
        return _end(_SETTLE, command, command.amount, command.note or None, command.counts)
    if isinstance(command, Release):
        return _end(_RELEASE, command, 0, None, None)
    return None


def _end(kind: int, command: Settle | Release, charge: int, note: str | None, counts: int | None) -> Values | None:
    if command.record is None:
        return (kind, command.hold_id, charge, command.at, command.at, note, counts, *_NO_ROW)
    if not isinstance(command.record, CallWritten):
        return None
    call = command.record.row(Verdict(Outcome.DONE, amount=charge))
    same = (call.account_id, call.log_id, call.charge) == (command.account_id, command.hold_id, charge)
    if not same or call.created_at != command.record.at:
        return None
    return (kind, command.hold_id, charge, command.at, call.created_at, note, counts, *_written(call))


def _written(row: CallRow) -> Values:
    return (
        row.gateway_id,
        row.provider,
        storable(row.model),  # a caller's own words
        int(row.success),
        row.status_code,
        row.duration,
        row.tokens_in,
        row.tokens_out,
        row.cost,
        encode_detail(row.detail),
        None if row.receipt is None else row.receipt.decode(),
        int(row.logged) | row.exports,
        row.request_body,
        row.response_body,
    )


def single_row_values(account_id: str, record: CallWritten) -> Values | None:
    """The same for the row of a call for which nothing was held; None if it is a job."""
    row = record.row(Verdict(Outcome.UNKNOWN))
    if row.charge or row.account_id != account_id or row.created_at != record.at:
        return None
    return (_ALONE, row.log_id, 0, 0, row.created_at, None, None, *_written(row))


def sort_batch(batch: Iterable[Item]) -> tuple[list[Item], list[Item], list[Item]]:
    """Splits a batch into ends, holds, and items for jobs that run after it: those whose ID another item has, or that
    count in another window of the same budget."""
    ends: list[Item] = []
    holds: list[Item] = []
    slow: list[Item] = []
    seen: set[tuple[bool, str, str]] = set()
    windows: dict[tuple[str, str], Budget] = {}
    for item in batch:
        command = item.command
        is_hold = isinstance(command, Hold)
        same = (is_hold, item.account_id, item.key)
        if same in seen or (isinstance(command, Hold) and command.budgets and not _one_window(command, windows)):
            slow.append(item)
        else:
            seen.add(same)
            (holds if is_hold else ends).append(item)
    return ends, holds, slow


def _one_window(hold: Hold, windows: dict[tuple[str, str], Budget]) -> bool:
    """Whether each of the hold's budgets has the same window as earlier ones of the same scope."""
    if any(windows.get((hold.account_id, budget.scope), budget) != budget for budget in hold.budgets):
        return False
    windows.update({(hold.account_id, budget.scope): budget for budget in hold.budgets})
    return True


def arguments_of(ends: Sequence[Item], holds: Sequence[Item]) -> list[Sequence[Any] | None]:
    """The function's arguments from p_accounts on."""
    accounts = sorted({item.account_id for item in (*ends, *holds)})  # by code point: the order of COLLATE "C"
    places = {account_id: place for place, account_id in enumerate(accounts, 1)}
    of_holds = _columns(holds, places, _HOLD_COLUMNS)
    budgets = _NO_BUDGETS if of_holds[-1] is None else _budgets(holds, places)
    return [accounts, *_columns(ends, places, _END_COLUMNS), *of_holds, *budgets]


def _budgets(holds: Sequence[Item], places: dict[str, int]) -> list[Sequence[Any] | None]:
    """The function's arguments from b_account on: each scope once, and which hold counts in which scope."""
    found: dict[tuple[int, str], tuple[int, Budget]] = {}
    uses: list[tuple[int, int]] = []
    for number, item in enumerate(holds, 1):
        assert isinstance(item.command, Hold)
        account = places[item.account_id]
        for budget in item.command.budgets:
            place, _ = found.setdefault((account, budget.scope), (len(found) + 1, budget))
            uses.append((number, place))
    rows = [
        (account, scope, budget.start, budget.since, budget.limit, budget.ends_at)
        for (account, scope), (_, budget) in found.items()
    ]
    return [*zip(*rows, strict=True), *zip(*uses, strict=True)]


def _columns(items: Sequence[Item], places: dict[str, int], width: int) -> list[Sequence[Any] | None]:
    if not items:
        return [None] * width
    columns = zip(*(item.values for item in items), strict=True)
    return [[places[item.account_id] for item in items], *(_some(column) for column in columns)]


def _some(column: Values) -> Values | None:
    """The column; None if it has no value at all, because an array of nulls costs both sides as much as any other."""
    return None if column.count(None) == len(column) else column


def charged_by(ends: Sequence[Item], response: list[int]) -> int:
    """What the function has charged. It never writes anything off: such items are answered `slow`."""
    done = (item.command for place, item in enumerate(ends) if _OUTCOMES[response[4 * place]] is Outcome.DONE)
    return sum(command.amount for command in done if isinstance(command, Settle))


def unknown_in(items: Sequence[Item], response: list[int]) -> list[str]:
    """The accounts of items that have no balance in the bucket."""
    return [item.account_id for place, item in enumerate(items) if response[4 * place] == UNKNOWN]


def deliver(items: Sequence[Item], ends: int, response: list[int]) -> list[Item]:
    """Deliver the function's answers to the waiting callers; return the items that are left: slow ones, and those whose
    account is not in the bucket because it may have been moved."""
    slow = []
    rest = iter(response[4 * len(items) :])
    refusals = {ends + number: asked for number, *asked in zip(*[rest] * 5, strict=True)}
    for place, item in enumerate(items):
        code, posted, held, owed = response[4 * place : 4 * place + 4]
        outcome = _OUTCOMES[code]
        if outcome is None:
            slow.append(item)
        elif not item.future.done():  # otherwise its caller was canceled; what was done remains
            amount = item.command.amount if outcome is Outcome.DONE and isinstance(item.command, Hold | Settle) else 0
            limit, spent, budget, reserved = refusals.get(place + 1, _NOT_ASKED)
            refused_by = budget - 1 if budget else None
            item.future.set_result(
                Verdict(outcome, posted, held, amount, 0, False, owed, limit, spent, refused_by, reserved)
            )
    return slow
