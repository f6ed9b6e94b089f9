"""The store of operator alarms: what the operator should look into. One row per subject, open until resolved.

Times are milliseconds since the Unix epoch.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from farebox.storage.sql import Connection, rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """One subject, identified by `kind` and `about`. `content` is from the last time it was raised."""

    kind: str
    about: str
    content: dict[str, str | int]
    times: int = 1
    """How often it has been raised since it was opened."""
    first_at: int
    last_at: int
    resolved_at: int | None = None


_COLUMNS = "kind, about, content, times, first_at, last_at, resolved_at"


def put_alarm(connection: Connection, alarm: Alarm) -> None:
    """Open the alarm, or add to the one that is open."""
    connection.execute(
        f"INSERT INTO operator_alarms ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, NULL) "
        "ON CONFLICT (kind, about) DO UPDATE SET content = excluded.content, last_at = excluded.last_at, "
        "times = CASE WHEN operator_alarms.resolved_at IS NULL THEN operator_alarms.times ELSE 0 END + excluded.times, "
        "first_at = CASE WHEN operator_alarms.resolved_at IS NULL THEN operator_alarms.first_at "
        "ELSE excluded.first_at END, resolved_at = NULL",
        (
            alarm.kind,
            alarm.about,
            msgspec.json.encode(alarm.content).decode(),
            alarm.times,
            alarm.first_at,
            alarm.last_at,
        ),
    )


def open_alarms(connection: Connection) -> list[Alarm]:
    """The unresolved ones, the latest first."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM operator_alarms WHERE resolved_at IS NULL ORDER BY last_at DESC, kind, about",
    )
    return [_alarm(fields) for fields in found]


def latest_alarms(connection: Connection, limit: int) -> list[Alarm]:
    """The unresolved ones, the latest first; at most `limit`."""
    sql = f"SELECT {_COLUMNS} FROM operator_alarms WHERE resolved_at IS NULL ORDER BY last_at DESC, kind, about LIMIT ?"
    return [_alarm(fields) for fields in rows(connection, sql, (limit,))]


def resolve_alarms(connection: Connection, at: int, *, kind: str | None = None, about: str | None = None) -> int:
    """Close the open alarms of this kind and subject, or all of them; returns how many."""
    connection.execute(
        "UPDATE operator_alarms SET resolved_at = ? WHERE resolved_at IS NULL "
        "AND kind = coalesce(?, kind) AND about = coalesce(?, about)",
        (at, kind, about),
    )
    return connection.changes()


def _alarm(fields: tuple[Any, ...]) -> Alarm:
    kind, about, content, times, first_at, last_at, resolved_at = fields
    return Alarm(
        kind=kind,
        about=about,
        content=msgspec.json.decode(content),
        times=times,
        first_at=first_at,
        last_at=last_at,
        resolved_at=resolved_at,
    )
