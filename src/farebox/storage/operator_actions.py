"""The store of the audit log: every action of an operator, in the transaction of the action. Rows are never changed.

Each row has a digest of itself and of the one before, so that `farebox check` notices one that was changed or deleted.
The number and digest of the latest row are stored separately, so that missing rows at the end are noticed too.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from farebox.model import Operator
from farebox.storage.sql import Connection, row, rows

ActionName: TypeAlias = Literal[
    "account.create", "account.set", "account.move", "account.freeze", "account.unfreeze", "user.create",
    "credit.grant", "credit.correct", "credit.refund", "profile.set", "token.create", "token.set", "token.revoke",
    "member.set", "member.remove", "link.create", "provider.set", "provider_key.set", "provider_key.remove",
    "price.set", "supplement.set", "markup.set", "rerate.begin", "tax.set", "tax.remove", "bill.import", "webhook.add",
    "webhook.remove", "message.resend", "event.replay", "alarm.raise", "alarm.resolve",
    "finding.accept", "finding.correct", "reconcile.begin", "report.begin",
]  # fmt: skip
"""Kinds of actions: see docs/operating.md, "The audit log"."""
State: TypeAlias = Mapping[str, Any]
"""The state of what an action changes, as JSON without secrets."""

_NUMBERS: Final = 2**62
"""Above every number."""
TEXT_MAX: Final = 20_000
"""Most characters stored of a state; of a longer one only the beginning is stored."""


class OperatorAction(NamedTuple):
    """One row. `at` in milliseconds; `before` and `after` are JSON, None where there was or is nothing."""

    number: int
    """1, 2, 3 … without gaps."""
    at: int
    who: str
    way: str
    act: str
    account_id: str
    """Empty: it concerns no account, or all of them."""
    subject: str
    """What it was done to, by its ID or name."""
    before: str | None
    after: str | None
    digest: str


_COLUMNS: Final = ", ".join(OperatorAction._fields)
_READ: Final = f"SELECT {_COLUMNS} FROM operator_acts"


def record_action(
    connection: Connection,
    by: Operator,
    action: ActionName,
    at: int,
    *,
    account_id: str = "",
    subject: str = "",
    before: State | None = None,
    after: State | None = None,
) -> None:
    """Write what an operator does, inside the transaction in which it is done."""
    latest = row(connection, "SELECT number, digest FROM operator_acts ORDER BY number DESC LIMIT 1")
    number, digest = max(_head(connection), (0, "") if latest is None else latest)
    made = OperatorAction(number + 1, at, by.who, by.way, action, account_id, subject, _text(before), _text(after), "")
    digest = digest_of(made, digest)
    connection.execute(
        f"INSERT INTO operator_acts ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*made[:-1], digest)
    )
    connection.execute(
        "INSERT INTO operator_acts_head (one, number, digest) VALUES (1, ?, ?) "
        "ON CONFLICT (one) DO UPDATE SET number = excluded.number, digest = excluded.digest",
        (made.number, digest),
    )


def _head(connection: Connection) -> tuple[int, str]:
    """Number and digest of the latest action that was written; 0 before the first."""
    found = row(connection, "SELECT number, digest FROM operator_acts_head")
    return (0, "") if found is None else (int(found[0]), str(found[1]))


def _text(state: State | None) -> str | None:
    if state is None:
        return None
    text = json.dumps(state, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= TEXT_MAX else json.dumps({"beginning": text[:TEXT_MAX]}, ensure_ascii=False)


def digest_of(action: OperatorAction, before: str) -> str:
    """SHA-256 over the digest of the row before and all columns but this one."""
    return hashlib.sha256(json.dumps([before, *action[:-1]]).encode()).hexdigest()


def list_actions(
    connection: Connection, *, before: int | None = None, account_id: str | None = None, limit: int
) -> list[OperatorAction]:
    """The latest actions, newest first; those before the one with this number; those about this account alone."""
    most = _NUMBERS if before is None else before
    where, values = ("", ()) if account_id is None else ("AND account_id = ?", (account_id,))
    found = rows(connection, f"{_READ} WHERE number < ? {where} ORDER BY number DESC LIMIT ?", (most, *values, limit))
    return [OperatorAction(*fields) for fields in found]


def changed_actions(connection: Connection) -> Iterator[tuple[int, str]]:
    """Rows that are not as they were written: their number, and what is wrong.

    The head is read first: actions that are committed while the rows are read come after it, and are checked by their
    own digests alone. A log without a head has no rows, except those committed since: their head is read afterwards.
    """
    head = _head(connection)
    number, digest, at_head = 0, "", ""
    while page := rows(connection, f"{_READ} WHERE number > ? ORDER BY number LIMIT 1000", (number,)):
        for action in (OperatorAction(*fields) for fields in page):
            if action.number != number + 1:
                yield number + 1, "missing"
            elif action.digest != digest_of(action, digest):
                yield action.number, "changed"
            number, digest = action.number, action.digest
            if number == head[0]:
                at_head = digest
    if head[0] > number:
        yield number + 1, "missing"
    elif (at_head and at_head != head[1]) or (number and not _head(connection)[0]):
        yield head[0] or number, "changed"
