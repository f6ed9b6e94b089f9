"""Holds that a crash left open or that have expired, and how they are closed.

Two queries, and two jobs that act on their results with ordinary commands, so that a job may be interrupted and run
again, or run twice at once, without harm.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal

from structlog.typing import FilteringBoundLogger

from farebox.ledger.commands import Expire, Outcome, Release, Settle, Verdict
from farebox.ledger.ledger import Ledger
from farebox.ledger.posting import apply
from farebox.ledger.rows import read_balance
from farebox.storage.account_keys import OF_ACCOUNT, key_of
from farebox.storage.database import Database
from farebox.storage.every_bucket import rows_available, rows_everywhere
from farebox.storage.sql import Connection, row

BATCH_SIZE = 256
"""Commands sent together, so that they share commits."""

Policy = Literal["release", "charge"]
"""What happens to a call in doubt: its hold is released, or charged in full."""


@dataclass(frozen=True, slots=True)
class OpenHold:
    """A hold that is open, in nano-dollars; `owner` is the process that was to resolve it."""

    account_id: str
    hold_id: str
    amount: int
    owner: str


# Both indexes that these queries walk have entries for open holds and unspent lots only, so they stay small, however
# many accounts and past calls there are.


def left_open(connection: Connection, owner: str) -> list[OpenHold]:
    """Open holds of any process other than `owner`; those without an owner have no process that could have died."""
    return _holds(rows_everywhere(connection, _open_holds("owner != '' AND owner != ?"), owner))


def expired_holds(connection: Connection, at: int) -> list[OpenHold]:
    """Open holds that have expired by `at`."""
    return _holds(rows_available(connection, _open_holds("expires_at <= ?"), at))


def expired_accounts(connection: Connection, at: int) -> list[str]:
    """Accounts with open holds or unspent lots that have expired by `at`."""
    found = rows_available(
        connection,
        "SELECT account_id FROM holds INDEXED BY holds_open WHERE bucket = ?1 AND state = 'open' AND expires_at <= ?2 "
        "UNION SELECT account_id FROM lots INDEXED BY lots_expiring "
        "WHERE bucket = ?1 AND spent = 0 AND expires_at <= ?2",
        at,
    )
    return [account_id for (account_id,) in found]


async def resolve_left_open(
    ledger: Ledger, database: Database, *, instance: str, policy: Policy, at: int, log: FilteringBoundLogger
) -> None:
    """Close the calls that former processes left in doubt, by the operator's policy, each with a line in the log.

    Called when the only server of a database starts: a call that another process still has in flight is closed too.
    Raises storage.sql.DatabaseUnavailable; what was closed until then stays closed.
    """
    holds = iter(await database.scan(lambda connection: left_open(connection, instance)))
    while some := list(islice(holds, BATCH_SIZE)):
        verdicts = await asyncio.gather(*(ledger.do(_ending(hold, policy, at)) for hold in some))
        for hold, verdict in zip(some, verdicts, strict=True):
            _note_resolved(hold, verdict, policy, log)


def _ending(hold: OpenHold, policy: Policy, at: int) -> Release | Settle:
    if policy == "charge":
        return Settle(account_id=hold.account_id, hold_id=hold.hold_id, amount=hold.amount, at=at)
    return Release(account_id=hold.account_id, hold_id=hold.hold_id, at=at)


def _note_resolved(hold: OpenHold, verdict: Verdict, policy: Policy, log: FilteringBoundLogger) -> None:
    if verdict.outcome is not Outcome.DONE:
        return  # it has ended in another way since it was listed, and that has been logged
    log.warning(
        "call_in_doubt_resolved",
        account_id=hold.account_id,
        hold_id=hold.hold_id,
        amount=hold.amount,
        owner=hold.owner,
        policy=policy,
    )


def owners_of_holds(connection: Connection) -> list[str]:
    """The processes that own an open hold."""
    sql = "SELECT DISTINCT owner FROM holds INDEXED BY holds_open WHERE bucket = ? AND state = 'open' AND owner != ''"
    return sorted({owner for (owner,) in rows_available(connection, sql)})


def holds_of(connection: Connection, owner: str) -> list[OpenHold]:
    """Open holds that this process owns."""
    return _holds(rows_everywhere(connection, _open_holds("owner = ?"), owner))


def _open_holds(which: str) -> str:
    return (
        "SELECT account_id, hold_id, amount, owner FROM holds INDEXED BY holds_open "
        f"WHERE bucket = ? AND state = 'open' AND {which} ORDER BY account_id, expires_at, hold_id"
    )


def _holds(found: Iterable[tuple[Any, ...]]) -> list[OpenHold]:
    return [OpenHold(*fields) for fields in found]


async def resolve_lost(
    ledger: Ledger,
    database: Database,
    holds: Sequence[OpenHold],
    *,
    policy: Policy,
    at: int,
    log: FilteringBoundLogger,
) -> None:
    """Close the calls in doubt of a process that is gone while others continue to serve, each with a line in the log.

    The process may only have been cut off from the database. So with `release`, its holds expire now instead of being
    released: a charge that still arrives is posted as a late one. Raises storage.sql.DatabaseUnavailable; what was
    closed until then stays closed.
    """
    remaining = iter(holds)
    while some := list(islice(remaining, BATCH_SIZE)):
        if policy == "charge":
            verdicts = await asyncio.gather(*(ledger.do(_ending(hold, policy, at)) for hold in some))
        else:
            verdicts = await asyncio.gather(*(database.write(partial(_expire_now, hold=hold, at=at)) for hold in some))
        for hold, verdict in zip(some, verdicts, strict=True):
            _note_resolved(hold, verdict, policy, log)


def _expire_now(connection: Connection, hold: OpenHold, at: int) -> Verdict:
    """Set the expiry of an open hold to now."""
    balance = read_balance(connection, hold.account_id)  # locks it before the hold is changed
    if balance is None:
        return Verdict(Outcome.UNKNOWN)
    connection.execute(
        "UPDATE holds SET expires_at = ? WHERE bucket = ? AND account_id = ? AND hold_id = ? AND state = 'open'",
        (at, balance.bucket, hold.account_id, hold.hold_id),
    )
    if connection.changes() == 0:
        return Verdict(Outcome.NOT_OPEN)
    return apply(connection, Expire(account_id=hold.account_id, at=at))


async def expire_due(ledger: Ledger, database: Database, at: int, log: FilteringBoundLogger) -> None:
    """End the holds and lots that have expired by `at`, logging each hold and each account's lots.

    A lot that open holds reserve is taken when they end, by a later run. Raises storage.sql.DatabaseUnavailable; what
    was ended until then stays ended.
    """
    accounts, listed = await database.scan(
        lambda connection: (expired_accounts(connection, at), expired_holds(connection, at))
    )
    remaining = iter(accounts)
    while some := list(islice(remaining, BATCH_SIZE)):
        verdicts = await asyncio.gather(*(ledger.do(Expire(account_id=account_id, at=at)) for account_id in some))
        for account_id, verdict in zip(some, verdicts, strict=True):
            if verdict.outcome is Outcome.DONE and verdict.amount:
                log.info("credit_expired", account_id=account_id, amount=verdict.amount)
    for hold in await database.scan(lambda connection: _now_expired(connection, listed)):
        log.warning(
            "hold_expired", account_id=hold.account_id, hold_id=hold.hold_id, amount=hold.amount, owner=hold.owner
        )


def _now_expired(connection: Connection, holds: Sequence[OpenHold]) -> list[OpenHold]:
    """The holds that did expire; others may have been settled, released or extended since they were listed."""
    sql = f"SELECT 1 FROM holds WHERE {OF_ACCOUNT} AND hold_id = ? AND state = 'expired'"
    return [
        hold for hold in holds if row(connection, sql, (*key_of(connection, hold.account_id), hold.hold_id)) is not None
    ]
