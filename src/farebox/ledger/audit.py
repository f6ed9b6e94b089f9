"""The audit: replays every account from its transfers and its holds, and reports each difference. `farebox check`.

It shares nothing with posting but the table of books, so that a mistake made there is not repeated here. It may run
next to a live server: accounts are read some at a time, each page in a snapshot. Of each account it keeps the
remainders of its lots in memory, never its transfers.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from farebox.ledger.audit_budgets import check_budgets
from farebox.ledger.audit_corrected import check_corrected
from farebox.ledger.audit_keys import IN_PAGE, WITHOUT_BALANCE, Key, Page, every_bucket, pages
from farebox.ledger.audit_lots import check_lots
from farebox.ledger.books import GIVEN_BACK, HOLD_STATES, OWN_BOOKS, RECEIVABLE, TRANSFERS
from farebox.ledger.differences import NODE_UNAVAILABLE, WHAT, Difference
from farebox.storage.accounts import count_accounts
from farebox.storage.sql import SNAPSHOT, Connection, NodeUnavailable
from farebox.storage.transfer_statement import NO_CHARGE

__all__ = ["WHAT", "Difference", "audit"]


def audit(
    connection: Connection, *, progress: Callable[[int, int], None] | None = None
) -> Generator[Difference, None, None]:
    """Check every account, and yield differences as they are found. `progress` is called for each account with the
    number done and the total.

    The connection must be outside a transaction, and is left so, also if the caller stops early.
    """
    with suppress(NodeUnavailable):
        connection.execute(_ANALYZE)
    total = count_accounts(connection)
    done = 0
    for bucket in every_bucket(connection):
        try:
            for (account_id,) in connection.execute(WITHOUT_BALANCE, (bucket,)):
                yield Difference(account_id=account_id, what="balance_missing", expected="a row", found=None)
            for accounts in pages(connection, bucket):
                connection.execute(SNAPSHOT)
                try:
                    found = list(check_page(connection, (bucket, accounts[0], accounts[-1]), accounts))
                finally:
                    connection.execute("ROLLBACK")
                yield from sorted(found, key=lambda difference: difference.account_id)
                for _ in accounts:
                    done += 1
                    if progress is not None:
                        progress(done, max(done, total))
        except NodeUnavailable:
            yield Difference(account_id=f"in bucket {bucket}", what=NODE_UNAVAILABLE, expected="a node", found=None)


_ANALYZE = (  # with statistics of small tables PostgreSQL would compare row by row: minutes instead of a second
    "/* sqlite: */ SELECT 1 /* postgres: ANALYZE transfers, holds, lots, calls, usage_hours, app_holds, budgets,"
    " corrected_calls */"
)


@dataclass(slots=True)
class _Replay:
    """The state of an account after replaying its transfers. Nano-dollars."""

    posted: int = 0
    version: int = 0
    filled: int = 0
    """Number of lots that were filled."""
    lots: dict[tuple[str, str], int] = field(default_factory=dict)
    """(book, lot_id) → remainder of the lot, if any."""
    moved: Counter[str] = field(default_factory=Counter)
    """Kind of transfer → sum."""
    owed: int = 0


def check_page(connection: Connection, page: Page, accounts: list[str]) -> Iterator[Difference]:
    """Check the accounts from the first to the last of the page; `accounts` are those that have rows there."""
    known = {
        account_id for (account_id,) in connection.execute(f"SELECT account_id FROM accounts WHERE {IN_PAGE}", page)
    }
    for account_id in accounts:
        if account_id not in known:
            yield Difference(account_id=account_id, what="account_missing", expected="a row", found=None)
    replays: defaultdict[str, _Replay] = defaultdict(_Replay)
    yield from _transfers(connection, page, replays)
    yield from _repeated(connection, page)
    for account_id, replay in replays.items():
        yield from _given_back(connection, (page[0], account_id), replay)
    filled = {account_id: (replay.lots, replay.filled) for account_id, replay in replays.items()}
    yield from check_lots(connection, page, filled)
    yield from _balances(connection, page, accounts, known, replays)
    yield from _holds(connection, page)
    yield from _unsettled(connection, page, replays)
    yield from _calls(connection, page)
    yield from _hours(connection, page)
    yield from _limits(connection, page)
    yield from check_budgets(connection, page)
    yield from check_corrected(connection, page)


# --- transfers and lots -----------------------------------------------------------------------------------------------

_ALLOWED = frozenset((kind, source, target) for kind, pairs in TRANSFERS.items() for source, target in pairs)


def _transfers(connection: Connection, page: Page, replays: defaultdict[str, _Replay]) -> Iterator[Difference]:
    """Replay the transfers in order."""
    found = connection.execute(
        "SELECT account_id, version, transfer_id, kind, from_book, to_book, amount, lot_id FROM transfers "
        f"WHERE {IN_PAGE} ORDER BY account_id, version",
        page,
    )
    for account_id, *transfer in found:
        yield from _transfer((page[0], account_id), replays[account_id], *transfer)


def _transfer(
    key: Key, replay: _Replay, version: int, transfer_id: str, kind: str, source: str, target: str, amount: int,
    lot_id: str | None,
) -> Iterator[Difference]:  # fmt: skip
    replay.version += 1
    if version != replay.version:
        yield _of_transfer(key, "transfer_version", transfer_id, replay.version, version)
        replay.version = version
    if (kind, source, target) not in _ALLOWED:
        allowed = " or ".join(sorted(f"{a} to {b}" for a, b in TRANSFERS.get(kind, ()))) or "a known kind"
        yield _of_transfer(key, "transfer_books", transfer_id, allowed, f"{kind}, {source} to {target}")
    if amount <= 0:
        yield _of_transfer(key, "transfer_amount", transfer_id, "above 0", amount)
    replay.moved[kind] += amount
    if target in OWN_BOOKS:
        if kind == "correction" and lot_id not in (None, transfer_id):
            replay.posted += amount
            replay.lots[target, lot_id or ""] = replay.lots.get((target, lot_id or ""), 0) + amount
        else:
            yield from _fill(key, replay, transfer_id, target, amount, lot_id)
    elif source in OWN_BOOKS:
        yield from _draw(key, replay, transfer_id, source, amount, lot_id)
    if RECEIVABLE in (source, target):
        yield from _add_owed(key, replay, transfer_id, amount if source == RECEIVABLE else -amount)


def _fill(
    key: Key, replay: _Replay, transfer_id: str, book: str, amount: int, lot_id: str | None
) -> Iterator[Difference]:
    replay.posted += amount
    replay.filled += 1
    if lot_id != transfer_id:
        yield _of_transfer(key, "transfer_lot", transfer_id, transfer_id, lot_id)
    replay.lots[book, transfer_id] = amount


def _draw(
    key: Key, replay: _Replay, transfer_id: str, book: str, amount: int, lot_id: str | None
) -> Iterator[Difference]:
    if replay.posted >= 0 > replay.posted - amount:  # reported once, not for every transfer that follows
        yield _of_transfer(key, "transfer_overdraws", transfer_id, "0 or more", replay.posted - amount)
    replay.posted -= amount
    left = replay.lots.pop((book, lot_id or ""), 0)
    if amount > left:
        yield _of_transfer(key, "lot_overdrawn", transfer_id, f"at most {left}", amount)
    elif amount < left:
        replay.lots[book, lot_id or ""] = left - amount


def _add_owed(key: Key, replay: _Replay, transfer_id: str, more: int) -> Iterator[Difference]:
    if replay.owed >= 0 > replay.owed + more:
        yield _of_transfer(key, "transfer_collects", transfer_id, f"at most {replay.owed}", -more)
    replay.owed += more


def _given_back(connection: Connection, key: Key, replay: _Replay) -> Iterator[Difference]:
    """Compare what was given back with what had been taken: `refund_failed:1` undoes `refund:1` and its parts."""
    for kind, why in GIVEN_BACK.items():
        if not replay.moved[kind]:
            continue
        found = connection.execute(
            "SELECT transfer_id, amount, taken FROM (SELECT g.*, "
            "(SELECT coalesce(sum(t.amount), 0) FROM transfers t "
            f"WHERE t.bucket = ?1 AND t.account_id = ?2 AND t.kind = ?3 AND t.{NO_CHARGE} "
            "AND (t.transfer_id = cause OR "
            "(t.transfer_id > cause || '/' AND t.transfer_id < cause || '0'))) AS taken FROM ("
            "SELECT *, ?3 || substr(transfer_id, instr(transfer_id, ':')) AS cause FROM transfers "
            "WHERE bucket = ?1 AND account_id = ?2 AND kind = ?4) g) given WHERE amount > taken",
            (*key, why, kind),
        )
        for transfer_id, amount, taken in found:
            yield _of_transfer(key, "given_back", transfer_id, f"at most {taken}", amount)


def _repeated(connection: Connection, page: Page) -> Iterator[Difference]:
    found = connection.execute(
        f"SELECT account_id, transfer_id, count(*) FROM transfers WHERE {IN_PAGE} "
        "GROUP BY account_id, transfer_id HAVING count(*) > 1",
        page,
    )
    for account_id, transfer_id, count in found:
        yield _of_transfer((page[0], account_id), "transfer_repeated", transfer_id, 1, count)


# --- the balances and the holds ---------------------------------------------------------------------------------------


def _balances(
    connection: Connection, page: Page, accounts: list[str], known: set[str], replays: defaultdict[str, _Replay]
) -> Iterator[Difference]:
    """Compare the balance rows with the replays and with the open holds."""
    open_holds = f"SELECT account_id, sum(amount) FROM holds WHERE {IN_PAGE} AND state = 'open' GROUP BY account_id"
    kept = dict(connection.execute(open_holds, page))
    balances = f"SELECT account_id, posted, held, version, owed FROM balances WHERE {IN_PAGE}"
    found = {account_id: balance for account_id, *balance in connection.execute(balances, page)}
    for account_id in accounts:
        if account_id not in found and account_id not in known:  # otherwise it has been reported already
            yield _of_account((page[0], account_id), "balance_missing", "a row", None)
    for account_id, balance in found.items():
        yield from _balance((page[0], account_id), replays[account_id], kept.get(account_id, 0), *balance)


def _balance(
    key: Key, replay: _Replay, kept: int, posted: int, held: int, version: int, owed: int
) -> Iterator[Difference]:
    if posted != replay.posted:
        yield _of_account(key, "balance_posted", replay.posted, posted)
    if held != kept:
        yield _of_account(key, "balance_held", kept, held)
    if not 0 <= held <= posted:
        yield _of_account(key, "balance_bounds", f"0 to {posted}", held)
    if version != replay.version:
        yield _of_account(key, "balance_version", replay.version, version)
    if owed != replay.owed:
        yield _of_account(key, "balance_owed", replay.owed, owed)


_STATES = ", ".join(f"'{state}'" for state in HOLD_STATES)

_CHARGED = f"""charged AS MATERIALIZED (
    SELECT account_id, substr(cause, 1, instr(cause || '/', '/') - 1) AS charged_id, sum(amount) AS amount,
        max(at) AS at
    FROM (SELECT account_id, substr(transfer_id, 8) AS cause, amount, at FROM transfers
        WHERE {IN_PAGE} AND kind = 'charge' AND substr(transfer_id, 1, 7) = 'charge:') t
    GROUP BY account_id, charged_id
)"""
"""What each hold was charged: `charge:{hold}` and its parts. Collected once, because no index finds charges by ID."""

_HOLDS_THAT_DIFFER = f"""
WITH {_CHARGED}
SELECT * FROM (
    SELECT account_id, hold_id, state, asked, amount, charge, written_off,
        CASE state WHEN 'settled' THEN charged END AS charged,
        CASE state WHEN 'settled' THEN coalesce((SELECT max(t.amount) FROM transfers t WHERE t.bucket = ?1
            AND t.account_id = hold.account_id AND t.transfer_id = 'write_off:' || hold_id AND t.{NO_CHARGE}), 0)
        END AS absorbed
    FROM (
        SELECT account_id, hold_id, max(state) AS state, max(asked) AS asked, max(amount) AS amount,
            max(charge) AS charge, max(written_off) AS written_off, coalesce(sum(charged), 0) AS charged
        FROM (
            SELECT account_id, hold_id, state, asked, amount, charge, written_off, NULL AS charged
            FROM holds WHERE {IN_PAGE}
            UNION ALL
            SELECT account_id, charged_id, NULL, NULL, NULL, NULL, NULL, amount FROM charged
        ) found GROUP BY account_id, hold_id HAVING count(state) > 0
    ) hold
) replayed WHERE state NOT IN ({_STATES}) OR asked < 0 OR amount < asked
    OR charge - written_off IS DISTINCT FROM charged OR written_off IS DISTINCT FROM absorbed
ORDER BY account_id, hold_id
"""
"""Grouped, not joined: SQLite assumes that an account has few rows, and would search all charges for each hold."""


def _holds(connection: Connection, page: Page) -> Iterator[Difference]:
    """Compare each hold with its transfers; the query returns only those that differ."""
    for account_id, hold_id, state, asked, amount, *of_charge in connection.execute(_HOLDS_THAT_DIFFER, page):
        charge, written_off, charged, absorbed = of_charge
        key = page[0], account_id
        if state not in HOLD_STATES:
            yield _of_hold(key, "hold_state", hold_id, ", ".join(HOLD_STATES), state)
        if asked < 0 or amount < asked:
            yield _of_hold(key, "hold_amount", hold_id, max(asked, 0), amount)
        net = None if charge is None or written_off is None else charge - written_off
        if net != charged:
            yield _of_hold(key, "hold_charge", hold_id, charged, net)
        if written_off != absorbed:
            yield _of_hold(key, "hold_write_off", hold_id, absorbed, written_off)


def _unsettled(connection: Connection, page: Page, replays: Mapping[str, _Replay]) -> Iterator[Difference]:
    """Find charges whose hold is not settled.

    Amounts are above zero, so if the settled holds explain the whole sum of charges, no transfer is left over.
    """
    explained = {
        account_id: (charged, written_off)
        for account_id, charged, written_off in connection.execute(
            "SELECT account_id, coalesce(sum(charge - written_off), 0), coalesce(sum(written_off), 0) FROM holds "
            f"WHERE {IN_PAGE} AND state = 'settled' GROUP BY account_id",
            page,
        )
    }
    for account_id, replay in replays.items():
        if explained.get(account_id, (0, 0)) != (replay.moved["charge"], replay.moved["write_off"]):
            yield from _unsettled_of(connection, (page[0], account_id))


def _unsettled_of(connection: Connection, key: Key) -> Iterator[Difference]:
    found = connection.execute(
        "SELECT transfer_id, amount FROM (SELECT t.*, substr(transfer_id, instr(transfer_id, ':') + 1) AS cause "
        "FROM transfers t WHERE kind IN ('charge', 'write_off') AND bucket = ?1 AND account_id = ?2) t "
        "WHERE NOT EXISTS (SELECT 1 FROM holds h WHERE h.bucket = ?1 AND h.account_id = ?2 "
        "AND h.hold_id = substr(cause, 1, instr(cause || '/', '/') - 1) AND h.state = 'settled')",
        key,
    )
    for transfer_id, amount in found:
        yield _of_transfer(key, "charge_unsettled", transfer_id, 0, amount)


# --- what reports read ------------------------------------------------------------------------------------------------


def _calls(connection: Connection, page: Page) -> Iterator[Difference]:
    """Compare each call's row with its hold (they share the id); `_holds` has compared the hold with the transfers."""
    found = connection.execute(
        "SELECT c.account_id, log_id, c.charge, coalesce(h.charge - h.written_off, 0) FROM calls c LEFT JOIN holds h "
        "ON h.bucket = c.bucket AND h.account_id = c.account_id AND h.hold_id = c.log_id "
        "WHERE c.bucket = ?1 AND c.account_id BETWEEN ?2 AND ?3 "
        "AND c.charge != coalesce(h.charge - h.written_off, 0)",
        page,
    )
    for account_id, log_id, charge, taken in found:
        yield _of_hold((page[0], account_id), "call_charge", log_id, taken, charge)


_CHARGED_WITHOUT_A_CALL = f"""
SELECT h.account_id, coalesce(a.settled_at, h.at) AS at, coalesce(a.provider, 'unrecorded') AS provider,
    coalesce(a.model, '') AS model, h.charge
FROM (
    SELECT account_id, hold_id, max(charge) AS charge, max(at) AS at
    FROM (
        SELECT account_id, hold_id, charge - written_off AS charge, NULL AS at FROM holds o
        WHERE {IN_PAGE} AND state = 'settled' AND charge > written_off AND NOT EXISTS (
            SELECT 1 FROM calls c WHERE c.bucket = ?1 AND c.account_id = o.account_id AND c.log_id = hold_id)
        UNION ALL
        SELECT account_id, charged_id, NULL, at FROM charged
    ) found GROUP BY account_id, hold_id HAVING count(charge) > 0
) h LEFT JOIN app_holds a ON a.bucket = ?1 AND a.account_id = h.account_id AND a.hold_id = h.hold_id
"""
"""Grouped, for the reason above."""

_HOURS_THAT_DIFFER = f"""
WITH {_CHARGED}
SELECT account_id, hour, provider, model,
    sum(calls), sum(charge), sum(tokens), sum(hour_calls), sum(hour_charge), sum(hour_tokens)
FROM (
    SELECT account_id, created_at - created_at % 3600000 AS hour, provider, model, 1 AS calls, charge,
        coalesce(tokens_in, 0) + coalesce(tokens_out, 0) AS tokens, 0 AS hour_calls, 0 AS hour_charge, 0 AS hour_tokens
    FROM calls WHERE {IN_PAGE} AND charge > 0
    UNION ALL
    SELECT account_id, at - at % 3600000, provider, model, 1, charge, 0, 0, 0, 0
    FROM ({_CHARGED_WITHOUT_A_CALL}) uncalled
    UNION ALL
    SELECT account_id, hour, provider, model, 0, 0, 0, calls, charge, tokens_in + tokens_out
    FROM usage_hours WHERE {IN_PAGE}
) counted GROUP BY account_id, hour, provider, model
HAVING sum(calls) != sum(hour_calls) OR sum(charge) != sum(hour_charge) OR sum(tokens) != sum(hour_tokens)
"""


def _hours(connection: Connection, page: Page) -> Iterator[Difference]:
    """Compare the hourly sums with the charged calls, and with charged holds that belong to no call."""
    for account_id, hour, provider, model, *sums in connection.execute(_HOURS_THAT_DIFFER, page):
        expected, found = (f"{n} calls, {charge} nanos, {tokens} tokens" for n, charge, tokens in (sums[:3], sums[3:]))
        where = f"{provider}/{model} at {hour}"
        yield _of_account((page[0], account_id), "usage_hour", f"{where}: {expected}", f"{where}: {found}")


def _limits(connection: Connection, page: Page) -> Iterator[Difference]:
    """Compare the sums that admission uses with the hours that they stand for."""
    found = connection.execute(
        "SELECT account_id, limit_spent, (SELECT coalesce(sum(u.charge), 0) FROM usage_hours u WHERE u.bucket = ?1 "
        "AND u.account_id = b.account_id AND u.hour >= b.limit_from) FROM balances b "
        "WHERE b.bucket = ?1 AND b.account_id BETWEEN ?2 AND ?3 AND b.limit_from IS NOT NULL",
        page,
    )
    for account_id, counted, spent in found:
        if counted != spent:
            yield _of_account((page[0], account_id), "limit_spent", spent, counted)


def _of_account(key: Key, what: str, expected: Any, found: Any) -> Difference:
    return Difference(account_id=key[1], what=what, expected=expected, found=found)


def _of_transfer(key: Key, what: str, transfer_id: str, expected: Any, found: Any) -> Difference:
    return Difference(account_id=key[1], what=what, expected=expected, found=found, transfer_id=transfer_id)


def _of_hold(key: Key, what: str, hold_id: str, expected: Any, found: Any) -> Difference:
    return Difference(account_id=key[1], what=what, expected=expected, found=found, hold_id=hold_id)
