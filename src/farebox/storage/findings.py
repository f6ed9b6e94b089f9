"""The store of findings: differences between our books and the processor's, and whether they are resolved.

A finding's ID names its subject, so finding the same thing again is one row.
"""

from collections.abc import Collection, Sequence

import msgspec

from farebox.storage.sql import Connection, row, rows


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One difference. `amount_cents` is the amount concerned: theirs minus ours, if it is a sum. Times in milliseconds
    since the Unix epoch."""

    finding_id: str
    """`{kind}:{subject}`"""
    kind: str
    account_id: str | None = None
    payment_id: str | None = None
    amount_cents: int
    detail: str
    found_at: int
    resolved_at: int | None = None
    accepted_cents: int | None = None
    """The amount that an operator has accepted: the finding is not opened again for the same amount."""


_COLUMNS = "finding_id, kind, account_id, payment_id, amount_cents, detail, found_at, resolved_at, accepted_cents"


def add_finding(connection: Connection, finding: Finding) -> bool:
    """Write a finding. Returns whether it is new: False if the same one is already open, or was accepted."""
    before = row(
        connection, "SELECT resolved_at, accepted_cents FROM findings WHERE finding_id = ?", (finding.finding_id,)
    )
    connection.execute(
        f"INSERT INTO findings ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL) "
        "ON CONFLICT (finding_id) DO UPDATE SET amount_cents = excluded.amount_cents, detail = excluded.detail, "
        "found_at = CASE WHEN findings.resolved_at IS NULL OR findings.accepted_cents = excluded.amount_cents "
        "THEN findings.found_at ELSE excluded.found_at END, "
        "resolved_at = CASE WHEN findings.accepted_cents = excluded.amount_cents THEN findings.resolved_at END",
        (
            finding.finding_id,
            finding.kind,
            finding.account_id,
            finding.payment_id,
            finding.amount_cents,
            finding.detail,
            finding.found_at,
        ),
    )
    return before is None or (before[0] is not None and before[1] != finding.amount_cents)


def accept_finding(connection: Connection, finding: Finding, at: int) -> None:
    """Resolve a finding that an operator has accepted with its amount."""
    connection.execute(
        "UPDATE findings SET resolved_at = ?, accepted_cents = amount_cents WHERE finding_id = ?",
        (at, finding.finding_id),
    )


def resolve_finding(connection: Connection, finding_id: str, at: int) -> None:
    """Mark a finding as resolved."""
    connection.execute(
        "UPDATE findings SET resolved_at = ? WHERE finding_id = ? AND resolved_at IS NULL", (at, finding_id)
    )


def resolve_all_but(connection: Connection, ids: Collection[str], found: Sequence[Finding], at: int) -> int:
    """Of the findings with these IDs, resolve those that were not found again. Returns how many."""
    again = {finding.finding_id for finding in found}
    resolved = 0
    for finding in open_findings(connection):
        if finding.finding_id in ids and finding.finding_id not in again:
            resolve_finding(connection, finding.finding_id, at)
            resolved += 1
    return resolved


def open_findings(connection: Connection) -> list[Finding]:
    """The open findings, oldest first."""
    return _findings(connection, "WHERE resolved_at IS NULL ORDER BY found_at, finding_id")


def open_findings_of(connection: Connection, account_id: str, limit: int) -> list[Finding]:
    """The account's open findings, the oldest first; at most `limit`."""
    return _findings(
        connection,
        "WHERE account_id = ? AND resolved_at IS NULL ORDER BY found_at, finding_id LIMIT ?",
        (account_id, limit),
    )


def count_open(connection: Connection, limit: int) -> int:
    """How many findings are open; at most `limit` are counted."""
    found = row(
        connection,
        "SELECT count(*) FROM (SELECT 1 FROM findings INDEXED BY findings_open WHERE resolved_at IS NULL LIMIT ?) f",
        (limit,),
    )
    return 0 if found is None else int(found[0])


def list_findings(connection: Connection, limit: int = 2**31) -> list[Finding]:
    """The latest findings, newest first."""
    return _findings(connection, "ORDER BY found_at DESC, finding_id LIMIT ?", (limit,))


def _findings(connection: Connection, where: str, values: tuple[object, ...] = ()) -> list[Finding]:
    names = _COLUMNS.split(", ")
    found = rows(connection, f"SELECT {_COLUMNS} FROM findings {where}", values)
    return [msgspec.convert(dict(zip(names, fields, strict=True)), Finding) for fields in found]
