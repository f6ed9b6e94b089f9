"""The store of auto top-up rules, and of the threshold on the balance that arms them."""

import msgspec

from farebox.money import NANOS_PER_CENT
from farebox.payments.model import TopUpRule
from farebox.payments.states import DISABLED_REASONS, OPEN_TOP_UPS, RULE_STATES
from farebox.storage.account_keys import OF_ACCOUNT, AccountKey, find_key, key_of
from farebox.storage.activity import note_activity
from farebox.storage.every_bucket import rows_available
from farebox.storage.sql import Connection, row

_FIELDS = TopUpRule.__struct_fields__
_COLUMNS = ", ".join(_FIELDS)
_OPEN = ", ".join(f"'{state}'" for state in OPEN_TOP_UPS)
_NO_OPEN_AUTO = (
    "NOT EXISTS (SELECT 1 FROM top_ups t WHERE t.bucket = ?1 AND t.account_id = {table}.account_id "
    f"AND t.kind = 'auto' AND t.state IN ({_OPEN}))"
)


def rule_of(connection: Connection, account_id: str) -> TopUpRule | None:
    """The account's auto top-up; None if it is switched off."""
    found = row(
        connection,
        f"SELECT {_COLUMNS} FROM top_up_rules WHERE {OF_ACCOUNT}",
        key_of(connection, account_id),
    )
    return None if found is None else TopUpRule(**dict(zip(_FIELDS, found, strict=True)))


def save_rule(connection: Connection, bucket: int, rule: TopUpRule) -> None:
    """Write a rule as the owner set it. Its `sequence` is kept, so that names of requests are never reused."""
    connection.execute(
        f"INSERT INTO top_up_rules (bucket, {_COLUMNS}) VALUES (?{', ?' * len(_FIELDS)}) "
        "ON CONFLICT (bucket, account_id) DO UPDATE SET "
        + ", ".join(f"{name} = excluded.{name}" for name in _FIELDS if name not in ("account_id", "sequence")),
        (bucket, *(getattr(rule, name) for name in _FIELDS)),
    )


def change_rule(connection: Connection, rule: TopUpRule, state: str, at: int, **changes: object) -> TopUpRule:
    """Move a rule along RULE_STATES, or keep its state and change other fields; being active has no reason."""
    assert state == rule.state or state in RULE_STATES[rule.state], f"a rule cannot go from {rule.state} to {state}"
    if state == "active":
        changes = {"reason": None, "until": None, "fingerprint": None} | changes
    changed = msgspec.structs.replace(rule, state=state, updated_at=at, **changes)
    assert changed.state == "active" or changed.reason in DISABLED_REASONS, f"{changed.reason} is not a reason"
    save_rule(connection, _key(connection, rule.account_id).bucket, changed)
    return changed


def end_pause(connection: Connection, account_id: str, reason: str, at: int) -> None:
    """Let the next sweep resume the account's rule, if it is paused for this reason."""
    rule = rule_of(connection, account_id)
    if rule is not None and (rule.state, rule.reason) == ("paused", reason):
        change_rule(connection, rule, "paused", at, until=at)


def remove_rule(connection: Connection, account_id: str) -> bool:
    """Delete the rule; returns whether there was one."""
    connection.execute(f"DELETE FROM top_up_rules WHERE {OF_ACCOUNT}", _key(connection, account_id))
    return connection.changes() == 1


def last_sequence(connection: Connection, bucket: int, account_id: str) -> int:
    """The highest number that a request of the account has had, including deleted rules."""
    found = row(
        connection,
        "SELECT max(CAST(substr(top_up_id, 6) AS BIGINT)) FROM top_ups "
        "WHERE bucket = ? AND account_id = ? AND kind = 'auto'",
        (bucket, account_id),
    )
    return int(found[0] or 0) if found else 0


def rearm(connection: Connection, bucket: int, account_id: str) -> None:
    """Arm the balance with the rule's threshold if the rule is active and no auto top-up is open, or disarm it."""
    connection.execute(
        f"UPDATE balances SET top_up_below = (SELECT r.threshold_cents * {NANOS_PER_CENT} FROM top_up_rules r "
        "WHERE r.bucket = ?1 AND r.account_id = ?2 AND r.state = 'active' AND "
        f"{_NO_OPEN_AUTO.format(table='r')}) WHERE bucket = ?1 AND account_id = ?2",
        (bucket, account_id),
    )


def request_auto(connection: Connection, bucket: int, account_id: str, at: int) -> str | None:
    """Request an auto top-up, in the transaction that found the posted balance below the threshold.

    The request has no amount: that is decided when a worker claims it. Returns its ID; None if the rule is not active
    or a request is already open (the index top_ups_one_auto decides between concurrent requests).
    """
    connection.execute(
        "UPDATE top_up_rules SET sequence = sequence + 1 WHERE bucket = ?1 AND account_id = ?2 AND state = 'active' "
        f"AND {_NO_OPEN_AUTO.format(table='top_up_rules')}",
        (bucket, account_id),
    )
    if connection.changes() == 0:
        return None
    found = row(
        connection, "SELECT sequence FROM top_up_rules WHERE bucket = ? AND account_id = ?", (bucket, account_id)
    )
    assert found is not None
    top_up_id = f"auto-{found[0]}"
    connection.execute(
        "INSERT INTO top_ups (bucket, account_id, top_up_id, kind, state, credit_cents, fee_cents, tax_cents, lines, "
        "next_at, created_at, updated_at) VALUES (?, ?, ?, 'auto', 'requested', 0, 0, 0, '{}', ?, ?, ?) "
        "ON CONFLICT DO NOTHING",
        (bucket, account_id, top_up_id, at, at, at),
    )
    if connection.changes() == 0:
        return None
    note_activity(connection, "top_up", "requested")
    return top_up_id


def fire(connection: Connection, bucket: int, account_id: str, at: int) -> str | None:
    """Request an auto top-up if the account is armed and below, as a ledger command would have; else None."""
    connection.execute(
        "UPDATE balances SET top_up_below = NULL WHERE bucket = ? AND account_id = ? AND posted < top_up_below",
        (bucket, account_id),
    )
    return request_auto(connection, bucket, account_id, at) if connection.changes() == 1 else None


def rules_to_sweep(connection: Connection, at: int, after: str, limit: int, *, switched_on: bool) -> list[str]:
    """Accounts above `after`, in order, whose rule needs attention although no event triggers it: its pause has ended,
    it is armed and the balance is below the threshold, or it is active but not armed although no top-up is open; and
    with `switched_on`, rules that were paused because the operator had switched auto top-up off."""
    found = rows_available(
        connection,
        "SELECT r.account_id FROM top_up_rules r JOIN balances b ON b.bucket = r.bucket "
        "AND b.account_id = r.account_id WHERE r.bucket = ?1 AND r.account_id > ?2 AND ("
        "(r.state = 'paused' AND (r.until <= ?3 OR (r.reason = 'switched_off' AND ?4 = 1))) OR (r.state = 'active' AND "
        f"(b.posted < b.top_up_below OR (b.top_up_below IS NULL AND {_NO_OPEN_AUTO.format(table='r')})))"
        ") ORDER BY r.account_id LIMIT ?5",
        after,
        at,
        int(switched_on),
        limit,
    )
    return sorted(account_id for (account_id,) in found)[:limit]


def _key(connection: Connection, account_id: str) -> AccountKey:
    key = find_key(connection, account_id)
    assert key is not None, f"{account_id} has a rule but is not an account"
    return key
