"""The store of exports: which calls of a gateway are still to be sent elsewhere, and the state of the deliveries. Each
such call has a mark on its row, written with the row and removed once the call has been delivered."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from farebox.storage.account_keys import OF_ACCOUNT, key_of
from farebox.storage.calls import COLUMNS, CallRow, call_of
from farebox.storage.every_bucket import buckets_in_use
from farebox.storage.sql import Connection, NodeUnavailable, row, rows

Kind: TypeAlias = Literal["push", "meter", "classify"]
"""`push`: the log row goes into a Logpush file; `meter`: the call becomes an event of the account's own Stripe meter;
`classify`: the classifier is asked about it. Also the column of `calls` that is 1 until that is done."""

_WAITS: Final[dict[Kind, str]] = {"push": "push = 1", "meter": "meter = 1", "classify": "classify = 1"}
_DONE: Final[dict[Kind, str]] = {"push": "push = NULL", "meter": "meter = NULL", "classify": "classify = NULL"}

GATEWAYS_MAX: Final = 5_000
"""Gateways that are looked at in one round; the rest follow in later rounds."""
COUNT_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class GatewayKey:
    """One gateway, which may have been deleted."""

    account_id: str
    gateway_id: str


@dataclass(frozen=True, slots=True)
class ExportState:
    """The state of one gateway's deliveries of one kind. Times in milliseconds since the epoch."""

    gateway_id: str
    kind: Kind
    failures: int = 0
    """Failed attempts in a row."""
    failing_at: int | None = None
    next_at: int = 0
    """Time of the next attempt."""
    error: str = ""
    """Why the last attempt failed."""
    delivered_at: int | None = None
    """Time of the last delivery."""
    batch: str = ""
    """JSON: the file that is being pushed (calls.exports.log_push); empty: none."""


_STATE: Final = "gateway_id, kind, failures, failing_at, next_at, error, delivered_at, batch"


def gateways_waiting(connection: Connection, kind: Kind) -> list[GatewayKey]:
    """The gateways that have calls waiting for this kind of delivery, except those on an unavailable node. Takes one
    step in the index for each gateway, however many of its calls wait."""
    found: list[GatewayKey] = []
    for bucket in buckets_in_use(connection):
        try:
            found += _waiting_in(connection, bucket, kind)
        except NodeUnavailable:
            continue
    return found


def _waiting_in(connection: Connection, bucket: int, kind: Kind) -> Iterator[GatewayKey]:
    last = ("", "")
    for _ in range(GATEWAYS_MAX):
        found = row(
            connection,
            f"SELECT account_id, gateway_id FROM calls WHERE bucket = ? AND {_WAITS[kind]} "
            "AND (account_id, gateway_id) > (?, ?) ORDER BY account_id, gateway_id LIMIT 1",
            (bucket, *last),
        )
        if found is None:
            return
        last = (str(found[0]), str(found[1]))
        yield GatewayKey(*last)


def calls_waiting(connection: Connection, gateway: GatewayKey, kind: Kind, limit: int) -> list[CallRow]:
    """The gateway's oldest waiting calls, without their bodies."""
    found = rows(
        connection,
        f"SELECT {COLUMNS} FROM calls WHERE {OF_ACCOUNT} AND gateway_id = ? AND {_WAITS[kind]} ORDER BY log_id LIMIT ?",
        (*key_of(connection, gateway.account_id), gateway.gateway_id, limit),
    )
    return [call_of(fields) for fields in found]


def logged_call(connection: Connection, gateway: GatewayKey, log_id: str) -> CallRow | None:
    """One of these calls with its bodies; None if it has been removed from the log meanwhile."""
    found = row(
        connection,
        f"SELECT {COLUMNS}, request, response FROM calls WHERE {OF_ACCOUNT} AND log_id = ? AND logged = 1",
        (*key_of(connection, gateway.account_id), log_id),
    )
    return None if found is None else call_of(found[:-2], *found[-2:])


def sizes_waiting(connection: Connection, gateway: GatewayKey, limit: int) -> list[tuple[str, int, int]]:
    """ID, start and size of the bodies in bytes, of the oldest calls that wait to be pushed."""
    found = rows(
        connection,
        "SELECT log_id, created_at, coalesce(length(request), 0) + coalesce(length(response), 0) FROM calls "
        f"WHERE {OF_ACCOUNT} AND gateway_id = ? AND push = 1 ORDER BY log_id LIMIT ?",
        (*key_of(connection, gateway.account_id), gateway.gateway_id, limit),
    )
    return [(str(log_id), int(at), int(size)) for log_id, at, size in found]


def count_waiting(connection: Connection, gateway: GatewayKey, kind: Kind) -> int:
    """How many of the gateway's calls wait, counted up to COUNT_MAX."""
    found = row(
        connection,
        f"SELECT count(*) FROM (SELECT 1 FROM calls WHERE {OF_ACCOUNT} AND gateway_id = ? AND {_WAITS[kind]} "
        "LIMIT ?) AS w",
        (*key_of(connection, gateway.account_id), gateway.gateway_id, COUNT_MAX),
    )
    return 0 if found is None else int(found[0])


def mark_delivered(connection: Connection, gateway: GatewayKey, kind: Kind, log_ids: Sequence[str]) -> None:
    """Remove the marks of these calls."""
    key = key_of(connection, gateway.account_id)
    for log_id in log_ids:
        connection.execute(f"UPDATE calls SET {_DONE[kind]} WHERE {OF_ACCOUNT} AND log_id = ?", (*key, log_id))


def forget_waiting(connection: Connection, gateway: GatewayKey, kind: Kind, limit: int = 500) -> int:
    """Remove the marks of the gateway's oldest waiting calls, because nothing of this kind is delivered for it any
    more. Returns how many there were."""
    found = rows(
        connection,
        f"SELECT log_id FROM calls WHERE {OF_ACCOUNT} AND gateway_id = ? AND {_WAITS[kind]} ORDER BY log_id LIMIT ?",
        (*key_of(connection, gateway.account_id), gateway.gateway_id, limit),
    )
    log_ids = [str(log_id) for (log_id,) in found]
    mark_delivered(connection, gateway, kind, log_ids)
    if not log_ids:
        delete_state(connection, gateway, kind)
    return len(log_ids)


def find_state(connection: Connection, gateway: GatewayKey, kind: Kind) -> ExportState:
    """The stored state; the initial one if nothing has been delivered yet."""
    found = row(
        connection,
        f"SELECT {_STATE} FROM export_states WHERE {OF_ACCOUNT} AND gateway_id = ? AND kind = ?",
        (*key_of(connection, gateway.account_id), gateway.gateway_id, kind),
    )
    return ExportState(gateway.gateway_id, kind) if found is None else _state(found)


def states_of(connection: Connection, account_id: str) -> list[ExportState]:
    """All of the account's states, by gateway."""
    found = rows(
        connection,
        f"SELECT {_STATE} FROM export_states WHERE {OF_ACCOUNT} ORDER BY gateway_id, kind",
        key_of(connection, account_id),
    )
    return [_state(fields) for fields in found]


def put_state(connection: Connection, account_id: str, state: ExportState) -> None:
    connection.execute(
        f"INSERT INTO export_states (bucket, account_id, {_STATE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (bucket, account_id, gateway_id, kind) DO UPDATE SET failures = excluded.failures, "
        "failing_at = excluded.failing_at, next_at = excluded.next_at, error = excluded.error, "
        "delivered_at = excluded.delivered_at, batch = excluded.batch",
        (
            *key_of(connection, account_id),
            state.gateway_id,
            state.kind,
            state.failures,
            state.failing_at,
            state.next_at,
            state.error,
            state.delivered_at,
            state.batch,
        ),
    )


def delete_state(connection: Connection, gateway: GatewayKey, kind: Kind) -> None:
    connection.execute(
        f"DELETE FROM export_states WHERE {OF_ACCOUNT} AND gateway_id = ? AND kind = ?",
        (*key_of(connection, gateway.account_id), gateway.gateway_id, kind),
    )


def retry_now(connection: Connection, account_id: str, kind: Kind) -> None:
    """Make failed deliveries due at once, because their destination has changed."""
    connection.execute(
        f"UPDATE export_states SET next_at = 0 WHERE {OF_ACCOUNT} AND kind = ?", (*key_of(connection, account_id), kind)
    )


def _state(fields: tuple[Any, ...]) -> ExportState:
    return ExportState(*fields)
