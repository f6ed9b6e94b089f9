"""The store of the processor's events: the inbox that webhooks and sweeps fill, and the outcome of each event.

An event is stored before it is acknowledged, and processed afterwards, with as many attempts as it takes. `next_at`
says when to process it next; an event without it is done, or was given up.
"""

from collections.abc import Sequence

import msgspec

from farebox.payments.processor import ProcessorEvent
from farebox.storage.sql import Connection, row, rows


class StoredEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event in the inbox. Times in milliseconds since the Unix epoch."""

    event_id: str
    type: str
    object_id: str
    body: bytes
    created_at: int
    """By the processor's clock."""
    received_at: int
    via: str
    """webhook, sweep"""
    attempts: int
    next_at: int | None
    processed_at: int | None
    outcome: str | None

    @property
    def given_up(self) -> bool:
        return self.next_at is None and self.processed_at is None


_COLUMNS = "event_id, type, object_id, body, created_at, received_at, via, attempts, next_at, processed_at, outcome"


def add_event(connection: Connection, event: ProcessorEvent, *, via: str, at: int) -> bool:
    """Store an event, due now. Returns whether it was new: a repeat changes nothing."""
    connection.execute(
        "INSERT INTO processor_events (event_id, type, object_id, body, created_at, received_at, via, next_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (event.event_id, event.type, event.object_id, event.body, event.created_at, at, via, at),
    )
    return connection.changes() == 1


def list_events(connection: Connection, *, failed: bool = False, limit: int = 100) -> list[StoredEvent]:
    """The newest events; `failed`: those that were given up, or failed and will be retried."""
    where = "WHERE processed_at IS NULL AND (next_at IS NULL OR attempts > 0)" if failed else ""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM processor_events {where} ORDER BY received_at DESC, created_at DESC, event_id LIMIT ?",
        (limit,),
    )
    return [_event(fields) for fields in found]


def has_due(connection: Connection, at: int) -> bool:
    return row(connection, "SELECT 1 FROM processor_events WHERE next_at <= ? LIMIT 1", (at,)) is not None


def claim_due(connection: Connection, *, at: int, until: int, limit: int) -> list[StoredEvent]:
    """Claim the oldest due events; they are due again at `until` unless we finish them."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM processor_events WHERE next_at <= ? "
        "ORDER BY created_at, received_at, event_id LIMIT ?",
        (at, limit),
    )
    events = [_event(fields) for fields in found]
    for event in events:
        connection.execute(
            "UPDATE processor_events SET attempts = attempts + 1, next_at = ? WHERE event_id = ?",
            (until, event.event_id),
        )
    return [msgspec.structs.replace(event, attempts=event.attempts + 1, next_at=until) for event in events]


def finish_event(connection: Connection, event_id: str, outcome: str, at: int) -> None:
    """Store that the event has been processed."""
    connection.execute(
        "UPDATE processor_events SET next_at = NULL, processed_at = ?, outcome = ? WHERE event_id = ?",
        (at, outcome, event_id),
    )


def postpone_event(connection: Connection, event_id: str, error: str, next_at: int | None) -> None:
    """Store that the event failed; it is retried at `next_at`, or never if that is None."""
    connection.execute(
        "UPDATE processor_events SET next_at = ?, processed_at = NULL, outcome = ? WHERE event_id = ?",
        (next_at, error, event_id),
    )


def make_due(connection: Connection, *, at: int, event_id: str | None = None, since: int | None = None) -> int:
    """Make one event, or all created since a time, due for processing again. Returns how many there are."""
    where, value = ("event_id = ?", event_id) if event_id is not None else ("created_at >= ?", since)
    connection.execute(
        f"UPDATE processor_events SET next_at = ?, processed_at = NULL, attempts = 0 WHERE {where}", (at, value)
    )
    return connection.changes()


def forget_done(connection: Connection, before: int) -> None:
    """Delete events received before then that have been processed."""
    connection.execute("DELETE FROM processor_events WHERE processed_at < ? AND received_at < ?", (before, before))


def received_since(connection: Connection, at: int) -> bool:
    """Whether a webhook has been received since `at`."""
    return (
        row(connection, "SELECT 1 FROM processor_events WHERE via = 'webhook' AND received_at >= ? LIMIT 1", (at,))
        is not None
    )


_SWEEP = "processor_events_swept"
"""Name of the row of `leases` whose `done_at` says up to when the processor has been asked for missed events."""


def last_swept(connection: Connection) -> int | None:
    found = row(connection, "SELECT done_at FROM leases WHERE name = ?", (_SWEEP,))
    return None if found is None else found[0]


def note_sweep(connection: Connection, at: int) -> None:
    connection.execute(
        "INSERT INTO leases (name, owner, epoch, until, done_at) VALUES (?, '', 0, 0, ?) "
        "ON CONFLICT (name) DO UPDATE SET done_at = excluded.done_at",
        (_SWEEP, at),
    )


def add_missing(connection: Connection, events: Sequence[ProcessorEvent], *, at: int) -> int:
    """Store the events that no webhook has delivered; returns how many."""
    return sum(add_event(connection, event, via="sweep", at=at) for event in events)


def _event(fields: tuple[object, ...]) -> StoredEvent:
    return msgspec.convert(dict(zip(_NAMES, fields, strict=True)), StoredEvent)


_NAMES = tuple(_COLUMNS.split(", "))
