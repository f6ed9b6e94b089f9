"""The audit: replays every account from its transfers and its holds, and reports each difference. `farebox check`.

It shares nothing with posting but the table of books, so that a mistake made there is not repeated here. It may run
next to a live server: each account is read in its own snapshot. Of an account it keeps in memory what is left of its
lots, never its transfers.
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from farebox.ledger.audit_budgets import check_budgets
from farebox.ledger.audit_corrected import check_corrected
from farebox.ledger.audit_keys import WITHOUT_BALANCE, Key, every_bucket, keys
from farebox.ledger.audit_lots import check_lots
from farebox.ledger.books import GIVEN_BACK, HOLD_STATES, OWN_BOOKS, RECEIVABLE, TRANSFERS
from farebox.ledger.differences import WHAT, Difference
from farebox.storage.accounts import count_accounts
from farebox.storage.sql import SNAPSHOT, Connection, NodeAway, row
from farebox.storage.statement import NO_CHARGE

__all__ = ["WHAT", "Difference", "audit"]


def audit(
    connection: Connection, *, progress: Callable[[int, int], None] | None = None
) -> Generator[Difference, None, None]:
    """Check every account, and yield differences as they are found. `progress` is called after each account with the
    number done and the total.

    The connection must be outside a transaction, and is left so, also if the caller stops early.
    """
    with suppress(NodeAway):
        connection.execute(_ANALYZE)
    total = count_accounts(connection)
    done = 0
    for bucket in every_bucket(connection):
        try:
            for (account_id,) in connection.execute(WITHOUT_BALANCE, (bucket,)):
                yield Difference(account_id=account_id, what="balance_missing", expected="a row", found=None)
            for key in keys(connection, bucket):
                connection.execute(SNAPSHOT)
                try:
                    yield from _account(connection, key)
                finally:
                    connection.execute("ROLLBACK")
                done += 1
                if progress is not None:
                    progress(done, max(done, total))
        except NodeAway:
            yield Difference(account_id=f"in bucket {bucket}", what="node_away", expected="a node", found=None)


_OF_ACCOUNT = "bucket = ?1 AND account_id = ?2"

_ANALYZE = (  # PostgreSQL would compare row by row where it last knew the tables small: minutes instead of a second
    "/* sqlite: */ SELECT 1 /* postgres: ANALYZE transfers, holds, lots, calls, usage_hours, app_holds, budgets,"
    " corrected_calls */"
)


@dataclass(slots=True)
class _Replay:
    """What an account's transfers add up to."""

    posted: int = 0
    version: int = 0
    filled: int = 0
    """Lots that were filled."""
    lots: dict[tuple[str, str], int] = field(default_factory=dict)
    """(book, lot_id) → what is left of it, if anything."""
    moved: Counter[str] = field(default_factory=Counter)
    """Kind of transfer → sum."""
    owed: int = 0


def _account(connection: Connection, key: Key) -> Iterator[Difference]:
    account_id = key[1]
    if row(connection, f"SELECT 1 FROM accounts WHERE {_OF_ACCOUNT}", key) is None:
        yield Difference(account_id=account_id, what="account_missing", expected="a row", found=None)
    replay = _Replay()
    yield from _transfers(connection, key, replay)
    yield from _repeated(connection, key)
    yield from _given_back(connection, key, replay)
    yield from check_lots(connection, key, replay.lots, replay.filled)
    yield from _balance(connection, key, replay)
    yield from _holds(connection, key)
    yield from _unsettled(connection, key, replay)
    yield from _calls(connection, key)
    yield from _hours(connection, key)
    yield from _limit(connection, key)
    yield from check_budgets(connection, key)
    yield from check_corrected(connection, key)


# --- transfers and lots -----------------------------------------------------------------------------------------------

_ALLOWED = frozenset((kind, source, target) for kind, pairs in TRANSFERS.items() for source, target in pairs)


def _transfers(connection: Connection, key: Key, replay: _Replay) -> Iterator[Difference]:
    """Replay the transfers in order."""
    found = connection.execute(
        "SELECT version, transfer_id, kind, from_book, to_book, amount, lot_id FROM transfers "
        f"WHERE {_OF_ACCOUNT} ORDER BY version",
        key,
    )
    for version, transfer_id, kind, source, target, amount, lot_id in found:
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
                replay.lots[target, lot_id] = replay.lots.get((target, lot_id), 0) + amount
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
    if replay.posted >= 0 > replay.posted - amount:  # said once, not again for every transfer that follows
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


def _repeated(connection: Connection, key: Key) -> Iterator[Difference]:
    found = connection.execute(
        f"SELECT transfer_id, count(*) FROM transfers WHERE {_OF_ACCOUNT} GROUP BY transfer_id HAVING count(*) > 1", key
    )
    for transfer_id, count in found:
        yield _of_transfer(key, "transfer_repeated", transfer_id, 1, count)


# --- the balance and the holds ----------------------------------------------------------------------------------------


def _balance(connection: Connection, key: Key, replay: _Replay) -> Iterator[Difference]:
    """Compare the balance row with the replay and with the open holds."""
    found = row(connection, f"SELECT posted, held, version, owed FROM balances WHERE {_OF_ACCOUNT}", key)
    if found is None:
        if (
            row(connection, f"SELECT 1 FROM accounts WHERE {_OF_ACCOUNT}", key) is None
        ):  # else it has been reported already
            yield _of_account(key, "balance_missing", "a row", None)
        return
    posted, held, version, owed = found
    open_holds = row(
        connection, f"SELECT coalesce(sum(amount), 0) FROM holds WHERE {_OF_ACCOUNT} AND state = 'open'", key
    )
    kept = 0 if open_holds is None else open_holds[0]
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
    SELECT substr(cause, 1, instr(cause || '/', '/') - 1) AS charged_id, sum(amount) AS amount, max(at) AS at
    FROM (SELECT substr(transfer_id, 8) AS cause, amount, at FROM transfers
        WHERE {_OF_ACCOUNT} AND kind = 'charge' AND substr(transfer_id, 1, 7) = 'charge:') t
    GROUP BY charged_id
)"""
"""What each hold was charged: `charge:{hold}` and its parts. Gathered once: no index finds charges by their ids."""

_HOLDS_THAT_DIFFER = f"""
WITH {_CHARGED}
SELECT * FROM (
    SELECT hold_id, state, asked, amount, charge, written_off,
        CASE state WHEN 'settled' THEN charged END AS charged,
        CASE state WHEN 'settled' THEN coalesce((SELECT max(t.amount) FROM transfers t WHERE t.bucket = ?1
            AND t.account_id = ?2 AND t.transfer_id = 'write_off:' || hold_id AND t.{NO_CHARGE}), 0)
        END AS absorbed
    FROM (
        SELECT hold_id, max(state) AS state, max(asked) AS asked, max(amount) AS amount, max(charge) AS charge,
            max(written_off) AS written_off, coalesce(sum(charged), 0) AS charged
        FROM (
            SELECT hold_id, state, asked, amount, charge, written_off, NULL AS charged FROM holds WHERE {_OF_ACCOUNT}
            UNION ALL
            SELECT charged_id, NULL, NULL, NULL, NULL, NULL, amount FROM charged
        ) found GROUP BY hold_id HAVING count(state) > 0
    ) hold
) replayed WHERE state NOT IN ({_STATES}) OR asked < 0 OR amount < asked
    OR charge - written_off IS DISTINCT FROM charged OR written_off IS DISTINCT FROM absorbed
ORDER BY hold_id
"""
"""Grouped, not joined: SQLite takes an account's rows for a few, and would look through all charges for each hold."""


def _holds(connection: Connection, key: Key) -> Iterator[Difference]:
    """Compare each hold with its transfers; SQLite hands over only those that differ."""
    for hold_id, state, asked, amount, charge, written_off, charged, absorbed in connection.execute(
        _HOLDS_THAT_DIFFER, key
    ):
        if state not in HOLD_STATES:
            yield _of_hold(key, "hold_state", hold_id, ", ".join(HOLD_STATES), state)
        if asked < 0 or amount < asked:
            yield _of_hold(key, "hold_amount", hold_id, max(asked, 0), amount)
        net = None if charge is None or written_off is None else charge - written_off
        if net != charged:
            yield _of_hold(key, "hold_charge", hold_id, charged, net)
        if written_off != absorbed:
            yield _of_hold(key, "hold_write_off", hold_id, absorbed, written_off)


def _unsettled(connection: Connection, key: Key, replay: _Replay) -> Iterator[Difference]:
    """Find charges whose hold is not settled.

    Amounts are above zero: where the settled holds explain all that was charged, no transfer is left over.
    """
    explained = row(
        connection,
        "SELECT coalesce(sum(charge - written_off), 0), coalesce(sum(written_off), 0) FROM holds "
        f"WHERE {_OF_ACCOUNT} AND state = 'settled'",
        key,
    )
    if explained == (replay.moved["charge"], replay.moved["write_off"]):
        return
    found = connection.execute(
        "SELECT transfer_id, amount FROM (SELECT t.*, substr(transfer_id, instr(transfer_id, ':') + 1) AS cause "
        f"FROM transfers t WHERE kind IN ('charge', 'write_off') AND {_OF_ACCOUNT}) t "
        "WHERE NOT EXISTS (SELECT 1 FROM holds h WHERE h.bucket = ?1 AND h.account_id = ?2 "
        "AND h.hold_id = substr(cause, 1, instr(cause || '/', '/') - 1) AND h.state = 'settled')",
        key,
    )
    for transfer_id, amount in found:
        yield _of_transfer(key, "charge_unsettled", transfer_id, 0, amount)


# --- what reports read ------------------------------------------------------------------------------------------------


def _calls(connection: Connection, key: Key) -> Iterator[Difference]:
    """Compare each call's row with its hold (they share the id); `_holds` has compared the hold with the transfers."""
    found = connection.execute(
        "SELECT log_id, c.charge, coalesce(h.charge - h.written_off, 0) FROM calls c LEFT JOIN holds h "
        "ON h.bucket = c.bucket AND h.account_id = c.account_id AND h.hold_id = c.log_id "
        "WHERE c.bucket = ? AND c.account_id = ? AND c.charge != coalesce(h.charge - h.written_off, 0)",
        key,
    )
    for log_id, charge, taken in found:
        yield _of_hold(key, "call_charge", log_id, taken, charge)


_CHARGED_WITHOUT_A_CALL = """
SELECT coalesce(a.settled_at, h.at) AS at, coalesce(a.provider, 'unrecorded') AS provider,
    coalesce(a.model, '') AS model, h.charge
FROM (
    SELECT hold_id, max(charge) AS charge, max(at) AS at
    FROM (
        SELECT hold_id, charge - written_off AS charge, NULL AS at FROM holds
        WHERE bucket = ?1 AND account_id = ?2 AND state = 'settled' AND charge > written_off AND NOT EXISTS (
            SELECT 1 FROM calls c WHERE c.bucket = ?1 AND c.account_id = ?2 AND c.log_id = hold_id)
        UNION ALL
        SELECT charged_id, NULL, at FROM charged
    ) found GROUP BY hold_id HAVING count(charge) > 0
) h LEFT JOIN app_holds a ON a.bucket = ?1 AND a.account_id = ?2 AND a.hold_id = h.hold_id
"""
"""Grouped, for the reason above."""

_HOURS_THAT_DIFFER = f"""
WITH {_CHARGED}
SELECT hour, provider, model, sum(calls), sum(charge), sum(tokens), sum(hour_calls), sum(hour_charge), sum(hour_tokens)
FROM (
    SELECT created_at - created_at % 3600000 AS hour, provider, model, 1 AS calls, charge,
        coalesce(tokens_in, 0) + coalesce(tokens_out, 0) AS tokens, 0 AS hour_calls, 0 AS hour_charge, 0 AS hour_tokens
    FROM calls WHERE {_OF_ACCOUNT} AND charge > 0
    UNION ALL
    SELECT at - at % 3600000, provider, model, 1, charge, 0, 0, 0, 0 FROM ({_CHARGED_WITHOUT_A_CALL}) uncalled
    UNION ALL
    SELECT hour, provider, model, 0, 0, 0, calls, charge, tokens_in + tokens_out FROM usage_hours WHERE {_OF_ACCOUNT}
) counted GROUP BY hour, provider, model
HAVING sum(calls) != sum(hour_calls) OR sum(charge) != sum(hour_charge) OR sum(tokens) != sum(hour_tokens)
"""


def _hours(connection: Connection, key: Key) -> Iterator[Difference]:
    """Compare the hourly sums with the calls that were charged, and the holds that were without being a call's."""
    for hour, provider, model, *sums in connection.execute(_HOURS_THAT_DIFFER, key):
        expected, found = (f"{n} calls, {charge} nanos, {tokens} tokens" for n, charge, tokens in (sums[:3], sums[3:]))
        where = f"{provider}/{model} at {hour}"
        yield _of_account(key, "usage_hour", f"{where}: {expected}", f"{where}: {found}")


def _limit(connection: Connection, key: Key) -> Iterator[Difference]:
    """Compare the sum that admission looks at with the hours it stands for."""
    found = row(
        connection,
        "SELECT limit_spent, (SELECT coalesce(sum(u.charge), 0) FROM usage_hours u WHERE u.bucket = ?1 "
        "AND u.account_id = ?2 AND u.hour >= b.limit_from) FROM balances b "
        "WHERE b.bucket = ?1 AND b.account_id = ?2 AND b.limit_from IS NOT NULL",
        key,
    )
    if found is not None and found[0] != found[1]:
        yield _of_account(key, "limit_spent", found[1], found[0])


def _of_account(key: Key, what: str, expected: Any, found: Any) -> Difference:
    return Difference(account_id=key[1], what=what, expected=expected, found=found)


def _of_transfer(key: Key, what: str, transfer_id: str, expected: Any, found: Any) -> Difference:
    return Difference(account_id=key[1], what=what, expected=expected, found=found, transfer_id=transfer_id)


def _of_hold(key: Key, what: str, hold_id: str, expected: Any, found: Any) -> Difference:
    return Difference(account_id=key[1], what=what, expected=expected, found=found, hold_id=hold_id)
