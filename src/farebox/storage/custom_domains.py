"""The store of custom domains: host names that stand for a gateway once the account has proved that it owns them.

The table has no bucket: a host name is looked up without knowing the account, and is active for one account only.

Times are milliseconds since the Unix epoch.
"""

from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

from farebox.calendar import DAY_MS, HOUR_MS, MINUTE_MS
from farebox.storage.config import note_change
from farebox.storage.sql import Connection, row, rows

Status: TypeAlias = Literal["pending_dcv", "active", "blocked", "error"]
Seen: TypeAlias = Literal["found", "missing", "unknown"]
"""The result of looking for the TXT record that proves ownership."""

PENDING_MS: Final = 7 * DAY_MS
"""How long Farebox waits for a record to appear, and for a record that disappeared to come back before the name stops
working."""


@dataclass(frozen=True, slots=True)
class CustomDomain:
    hostname: str
    account_id: str
    gateway_id: str
    token: str
    """The expected content of the record."""
    status: Status
    """pending_dcv: the record has not been seen yet. active: the name works. blocked: it was seen, but the name is
    active for another account. error: the record never appeared, or has disappeared."""
    failing_since: int | None
    """If active: since when the record has been missing."""
    next_at: int | None
    """When to look for the record next; None: never."""
    created_at: int
    modified_at: int


_COLUMNS = "hostname, account_id, gateway_id, token, status, failing_since, next_at, created_at, modified_at"


def find_domain(connection: Connection, account_id: str, hostname: str) -> CustomDomain | None:
    found = row(
        connection,
        f"SELECT {_COLUMNS} FROM custom_domains WHERE hostname = ? AND account_id = ?",
        (hostname, account_id),
    )
    return None if found is None else _domain(found)


def find_active(connection: Connection, hostname: str) -> CustomDomain | None:
    """The active domain with this host name, of whatever account; None if there is none."""
    sql = f"SELECT {_COLUMNS} FROM custom_domains WHERE hostname = ? AND status = 'active'"
    found = row(connection, sql, (hostname,))
    return None if found is None else _domain(found)


def list_domains(connection: Connection, account_id: str) -> list[CustomDomain]:
    """The account's domains, by name."""
    sql = f"SELECT {_COLUMNS} FROM custom_domains WHERE account_id = ? ORDER BY hostname"
    return [_domain(fields) for fields in rows(connection, sql, (account_id,))]


def active_domains(connection: Connection, account_id: str | None = None) -> list[CustomDomain]:
    """All active domains, or the account's."""
    if account_id is not None:
        return [domain for domain in list_domains(connection, account_id) if domain.status == "active"]
    found = rows(connection, f"SELECT {_COLUMNS} FROM custom_domains WHERE status = 'active'", ())
    return [_domain(fields) for fields in found]


def due_domains(connection: Connection, at: int, limit: int) -> list[CustomDomain]:
    """Domains whose record is due to be looked for."""
    sql = f"SELECT {_COLUMNS} FROM custom_domains WHERE next_at <= ? ORDER BY next_at LIMIT ?"
    return [_domain(fields) for fields in rows(connection, sql, (at, limit))]


def put_domain(connection: Connection, domain: CustomDomain) -> None:
    """Create or replace the domain."""
    note_change(connection, domain.account_id)
    connection.execute(
        f"INSERT INTO custom_domains ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (hostname, account_id) DO UPDATE SET status = excluded.status, "
        "failing_since = excluded.failing_since, next_at = excluded.next_at, modified_at = excluded.modified_at",
        (
            domain.hostname,
            domain.account_id,
            domain.gateway_id,
            domain.token,
            domain.status,
            domain.failing_since,
            domain.next_at,
            domain.created_at,
            domain.modified_at,
        ),
    )


def delete_domain(connection: Connection, domain: CustomDomain) -> None:
    note_change(connection, domain.account_id)
    connection.execute(
        "DELETE FROM custom_domains WHERE hostname = ? AND account_id = ?", (domain.hostname, domain.account_id)
    )


def delete_domains_of(connection: Connection, account_id: str, gateway_id: str) -> None:
    """Delete all domains of a gateway."""
    connection.execute("DELETE FROM custom_domains WHERE account_id = ? AND gateway_id = ?", (account_id, gateway_id))


def judge(connection: Connection, looked_for: CustomDomain, seen: Seen, at: int) -> CustomDomain | None:
    """Store the status that follows from `seen`; returns the domain afterwards, or None if it was deleted meanwhile."""
    domain = find_domain(connection, looked_for.account_id, looked_for.hostname)
    if domain is None or domain.token != looked_for.token:
        return None
    if seen == "found":
        other = find_active(connection, domain.hostname)
        taken = other is not None and other.account_id != domain.account_id
        judged = _with(domain, "blocked" if taken else "active", None, at + (HOUR_MS if taken else DAY_MS), at)
    elif seen == "unknown" and (domain.status == "active" or at - domain.created_at < PENDING_MS):
        judged = _with(domain, domain.status, domain.failing_since, at + 5 * MINUTE_MS, at)
    elif domain.status == "active":
        since = domain.failing_since or at
        over = at - since >= PENDING_MS
        judged = _with(domain, "error" if over else "active", since, None if over else at + HOUR_MS, at)
    elif at - domain.created_at >= PENDING_MS:
        judged = _with(domain, "error", None, None, at)
    else:
        soon = MINUTE_MS if at - domain.created_at < HOUR_MS else HOUR_MS
        judged = _with(domain, "pending_dcv", None, at + soon, at)
    if judged.status != domain.status:
        put_domain(connection, judged)
    else:
        connection.execute(
            "UPDATE custom_domains SET failing_since = ?, next_at = ? WHERE hostname = ? AND account_id = ?",
            (judged.failing_since, judged.next_at, judged.hostname, judged.account_id),
        )
    return judged


def displace(connection: Connection, domain: CustomDomain, at: int) -> None:
    """Deactivate the domain: its record is gone, and another account's record is there."""
    stored = find_domain(connection, domain.account_id, domain.hostname)
    if stored is not None and stored.status == "active" and stored.token == domain.token:
        put_domain(connection, _with(stored, "error", None, None, at))


def _with(
    domain: CustomDomain, status: Status, failing_since: int | None, next_at: int | None, at: int
) -> CustomDomain:
    modified_at = domain.modified_at if status == domain.status else at
    return replace(domain, status=status, failing_since=failing_since, next_at=next_at, modified_at=modified_at)


def _domain(fields: tuple[Any, ...]) -> CustomDomain:
    return CustomDomain(*fields)
