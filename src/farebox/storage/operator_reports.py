"""The store of the operator's reports: the latest of each kind, and its progress."""

from typing import Any, NamedTuple

from farebox.storage.sql import Connection, row


class ReportRow(NamedTuple):
    """A report. Times in milliseconds."""

    kind: str
    report_id: str
    state: str
    """running, done, failed."""
    who: str
    done: int
    total: int
    """Number of accounts; 0: not known yet."""
    report: str | None
    started_at: int
    seen_at: int


_COLUMNS = ", ".join(ReportRow._fields)


def find_report(connection: Connection, kind: str) -> ReportRow | None:
    found: tuple[Any, ...] | None = row(connection, f"SELECT {_COLUMNS} FROM operator_reports WHERE kind = ?", (kind,))
    return None if found is None else ReportRow(*found)


def begin_report(connection: Connection, begun: ReportRow, *, gone_before: int) -> bool:
    """Replace the latest report of its kind with a new one, unless it is still running; returns whether it was
    replaced. A report that was last seen before `gone_before` is no longer running."""
    latest = find_report(connection, begun.kind)
    if latest is not None and latest.state == "running" and latest.seen_at >= gone_before:
        return False
    connection.execute("DELETE FROM operator_reports WHERE kind = ?", (begun.kind,))
    connection.execute(f"INSERT INTO operator_reports ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", tuple(begun))
    return True


def renew_report(connection: Connection, report_id: str, *, done: int, total: int, at: int) -> None:
    """Store the report's progress."""
    connection.execute(
        "UPDATE operator_reports SET done = ?, total = ?, seen_at = ? WHERE report_id = ? AND state = 'running'",
        (done, total, at, report_id),
    )


def end_report(connection: Connection, report_id: str, state: str, report: str, at: int) -> None:
    connection.execute(
        "UPDATE operator_reports SET state = ?, report = ?, seen_at = ? WHERE report_id = ? AND state = 'running'",
        (state, report, at, report_id),
    )
