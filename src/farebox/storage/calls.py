"""The store of calls: one row per call, which is its log row and its receipt; and the hourly sums that reports read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from farebox.calendar import HOUR_MS
from farebox.screened import Screened
from farebox.storage import log_totals
from farebox.storage.account_keys import OF_ACCOUNT, key_of
from farebox.storage.every_bucket import buckets_in_use, rows_available, rows_everywhere
from farebox.storage.sql import Connection, row, rows

UNRECORDED = "unrecorded"
"""Counted as the provider of a charge that has no record: a call that was interrupted by a crash and charged under the
operator's policy."""


class CallDetail(msgspec.Struct, frozen=True, omit_defaults=True):
    """The log row's fields that are read but never searched by the ledger's own reports."""

    path: str = ""
    request_type: str = ""
    request_content_type: str = ""
    response_content_type: str = ""
    outcome: str = ""
    """charged, free, own_key, released, refused: the receipt's outcome."""
    error: str = ""
    """Name of the error kind, if the call failed on our side."""
    step: int = 0
    metadata: Mapping[str, str | int | float | bool] | None = None
    event_id: str = ""
    own_key: bool = False
    authenticated: bool = True
    user_agent: str = ""
    request_size: int = 0
    response_size: int = 0
    custom_cost: bool = False
    first_byte_ms: int | None = None
    """From the start of the call until the head of the response had arrived."""
    hold_ms: int | None = None
    """From the start until its hold was durable; None: it needed none, or an older release recorded it."""
    unseen: tuple[str, ...] = ()
    """The kinds of unseen input."""
    common_form: bool = False
    """The caller used one of the common forms (`compat`, `/ai/v1`), which name the provider in the body."""
    route: str = ""
    """The name of the dynamic route that chose the model."""
    key_alias: str = ""
    """Alias of the account's stored key that was used; empty if none was."""
    feedback: float | None = None
    """From -1 to 1, given afterwards; 0: not rated."""
    score: float | None = None
    """From 0 to 100, given afterwards."""
    cached: bool = False
    """The response came from the gateway's cache."""
    token_id: str = ""
    """ID of the caller's access token."""
    dlp_action: str = ""
    """The strongest action that data loss prevention took; empty: it found nothing."""
    screened: Screened | None = None
    """What screening found; None: nothing, or there was none."""
    cached_tokens: tuple[int, int] | None = None
    """Tokens read from the provider's cache and written to it; only where the gateway has a Stripe meter."""
    end_user: str = ""
    """The end user that a header named; empty: the body may name one."""
    task: str = ""
    """What the call was for, in the classifier's words. This and the next are empty if the classifier was not asked."""
    model_fit: str = ""
    """How the model fits that task (runtime.classifier.ModelFit)."""


class CallRow(msgspec.Struct, frozen=True):
    """One call. Amounts in nano-dollars, times in milliseconds.

    Creating a Struct of this many fields takes 25 times as long with keyword arguments, so they are passed by position.
    """

    account_id: str
    log_id: str
    gateway_id: str
    created_at: int
    provider: str
    model: str
    success: bool
    status_code: int
    duration: int
    tokens_in: int | None
    tokens_out: int | None
    cost: int
    charge: int
    detail: CallDetail
    receipt: bytes | None
    """The receipt as stored (pricing.stored_receipt)."""
    logged: bool
    request_body: bytes | None = None
    response_body: bytes | None = None
    exports: int = 0
    """Where the call is still to be sent: PUSH, METER, CLASSIFY."""


PUSH, METER, CLASSIFY = 2, 4, 8
"""Flags of `exports`. The ledger's batches combine them with 1, which means logged, in one number."""


class ReceiptRow(msgspec.Struct, frozen=True):
    """The stored part of a call's receipt, and the columns of its row that complete it (pricing.stored_receipt).
    Amounts in nano-dollars."""

    stored: bytes
    account_id: str
    log_id: str
    gateway_id: str
    provider: str
    model: str
    outcome: str
    cost: int
    charge: int


COLUMNS = (
    "account_id, log_id, gateway_id, created_at, provider, model, success, status_code, duration, "
    "tokens_in, tokens_out, cost, charge, detail, receipt, logged"
)


"""The columns that lists read: all but the bodies, `request` and `response`, which are stored after them."""
INSERT_CALL = (
    f"INSERT INTO calls (bucket, {COLUMNS}, request, response, push, meter, classify) "
    "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
ADD_USAGE = (
    "INSERT INTO usage_hours (bucket, account_id, hour, provider, model, calls, charge, tokens_in, tokens_out) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (bucket, account_id, hour, provider, model) DO UPDATE SET "
    "calls = usage_hours.calls + excluded.calls, charge = usage_hours.charge + excluded.charge, "
    "tokens_in = usage_hours.tokens_in + excluded.tokens_in, "
    "tokens_out = usage_hours.tokens_out + excluded.tokens_out"
)


def insert_call(connection: Connection, bucket: int, call: CallRow) -> None:
    """Write the call's row, with its bodies if they are logged, and add it to the hour's sums.

    A repeat of the same log ID changes nothing.
    """
    connection.execute(f"{INSERT_CALL} ON CONFLICT DO NOTHING", call_values(bucket, call))
    if connection.changes() == 0:
        return
    if call.charge:
        add_usage(
            connection,
            bucket,
            call.account_id,
            call.created_at,
            call.provider,
            call.model,
            call.charge,
            call.tokens_in or 0,
            call.tokens_out or 0,
        )


def call_values(bucket: int, call: CallRow) -> tuple[object, ...]:
    """The values of INSERT_CALL."""
    return (
        bucket,
        call.account_id,
        call.log_id,
        call.gateway_id,
        call.created_at,
        call.provider,
        call.model,
        call.success,
        call.status_code,
        call.duration,
        call.tokens_in,
        call.tokens_out,
        call.cost,
        call.charge,
        encode_detail(call.detail),
        None if call.receipt is None else call.receipt.decode(),
        call.logged,
        call.request_body,
        call.response_body,
        1 if call.exports & PUSH else None,
        1 if call.exports & METER else None,
        1 if call.exports & CLASSIFY else None,
    )


def call_of(fields: tuple[Any, ...], request: bytes | None = None, response: bytes | None = None) -> CallRow:
    """The call, from a row's COLUMNS and its bodies; `exports` is not read."""
    named = dict(zip(COLUMNS.split(", "), fields, strict=True))
    named["success"] = bool(named["success"])
    named["logged"] = bool(named["logged"])
    named["detail"] = msgspec.json.decode(named["detail"], type=CallDetail)
    named["receipt"] = None if named["receipt"] is None else str(named["receipt"]).encode()
    return CallRow(**named, request_body=request, response_body=response)


def encode_detail(detail: CallDetail) -> str:
    """The detail as stored."""
    # PostgreSQL cannot read any field of a JSON text that contains an escaped NUL.
    return msgspec.json.encode(detail).decode().replace("\\u0000", "\\ufffd")


def add_usage(
    connection: Connection,
    bucket: int,
    account_id: str,
    at: int,
    provider: str,
    model: str,
    charge: int,
    tokens_in: int = 0,
    tokens_out: int = 0,
) -> None:
    """Add one charge to the sums of the hour of `at`: reports and spending limits are counted from them."""
    connection.execute(
        ADD_USAGE, (bucket, account_id, at - at % HOUR_MS, provider, model, 1, charge, tokens_in, tokens_out)
    )


def is_new_beyond(
    connection: Connection, bucket: int, account_id: str, at: int, provider: str, model: str, most: int
) -> bool:
    """Whether the hour of `at` has the sums of at least `most` models, and none of this one."""
    hour = (bucket, account_id, at - at % HOUR_MS)
    found = row(
        connection,
        "SELECT count(*) FROM ("
        "SELECT 1 FROM usage_hours WHERE bucket = ? AND account_id = ? AND hour = ? LIMIT ?) found",
        (*hour, most),
    )
    assert found is not None
    if found[0] < most:
        return False
    return None is row(
        connection,
        "SELECT 1 FROM usage_hours WHERE bucket = ? AND account_id = ? AND hour = ? AND provider = ? AND model = ?",
        (*hour, provider, model),
    )


_RECEIPT = "c.receipt, c.account_id, c.log_id, c.gateway_id, c.provider, c.model, c.detail, c.cost, c.charge"


def find_receipt(connection: Connection, log_id: str, account_id: str | None = None) -> ReceiptRow | None:
    """The receipt of a call. Without an account any account's call is found (the operator's view)."""
    if account_id is None:
        # By the primary key, account by account: every call would pay for a separate index.
        found = next(
            rows_everywhere(
                connection,
                f"SELECT {_RECEIPT} FROM accounts a CROSS JOIN calls c WHERE a.bucket = ?1 AND c.bucket = ?1 "
                "AND c.account_id = a.account_id AND c.log_id = ?2 LIMIT 1",
                log_id,
            ),
            None,
        )
    else:
        key = key_of(connection, account_id)
        found = row(connection, f"SELECT {_RECEIPT} FROM calls c WHERE {OF_ACCOUNT} AND log_id = ?", (*key, log_id))
    return None if found is None or found[0] is None else receipt_row(found)


def receipt_row(found: tuple[Any, ...]) -> ReceiptRow:
    """From the columns of `_RECEIPT`."""
    stored, account_id, log_id, gateway_id, provider, model, detail, cost, charge = found
    outcome = msgspec.json.decode(detail, type=CallDetail).outcome
    return ReceiptRow(str(stored).encode(), account_id, log_id, gateway_id, provider, model, outcome, cost, charge)


def gateways_with_logs(connection: Connection) -> list[tuple[int, str, str]]:
    """Bucket, account and gateway of all logs, including those of deleted gateways. Walks an index of all logged
    calls."""
    found = rows_available(
        connection,
        "SELECT DISTINCT bucket, account_id, gateway_id FROM calls INDEXED BY calls_of_gateway "
        "WHERE bucket = ? AND logged = 1",
    )
    return [(bucket, account_id, gateway_id) for bucket, account_id, gateway_id in found]


def forget_logs_before(connection: Connection, gateway: tuple[int, str, str], before: int, limit: int = 500) -> int:
    """Remove calls made before that time from a gateway's log, with their bodies; at most `limit` at once. Returns how
    many were removed. Their rows stay as receipts."""
    return _forget(connection, gateway, "log_id < ? LIMIT ?", log_totals.id_at(before), limit)


def forget_logs_above(connection: Connection, gateway: tuple[int, str, str], keep: int, limit: int = 500) -> int:
    """The same for a gateway's oldest calls, if it has more than `keep`."""
    return _forget(connection, gateway, "TRUE ORDER BY log_id DESC LIMIT ? OFFSET ?", limit, keep)


def forget_logs_beyond(connection: Connection, gateway: tuple[int, str, str], keep: int, limit: int = 500) -> int:
    """The same for a gateway's newest calls, if it has more than `keep`."""
    return _forget(connection, gateway, "TRUE ORDER BY log_id LIMIT ? OFFSET ?", limit, keep)


def forget_logs(connection: Connection, account_id: str, gateway_id: str, log_ids: Sequence[str]) -> int:
    """Remove these calls from the gateway's log, with their bodies. Returns how many of them were in it."""
    key = key_of(connection, account_id)
    gone = []
    for log_id in log_ids:
        connection.execute(
            "UPDATE calls SET logged = 0, request = NULL, response = NULL, push = NULL "
            f"WHERE {OF_ACCOUNT} AND log_id = ? AND gateway_id = ? AND logged = 1",
            (*key, log_id, gateway_id),
        )
        if connection.changes():
            gone.append(log_id)
    log_totals.subtract(connection, (*key, gateway_id), gone)
    return len(gone)


def edit_log(
    connection: Connection,
    account_id: str,
    gateway_id: str,
    log_id: str,
    changed: Callable[[CallDetail], CallDetail],
) -> bool:
    """Replace the detail of one logged call by what `changed` returns for it; returns whether the gateway's log has the
    call."""
    key = key_of(connection, account_id)
    while True:
        found = row(
            connection,
            f"SELECT detail FROM calls WHERE {OF_ACCOUNT} AND log_id = ? AND gateway_id = ? AND logged = 1",
            (*key, log_id, gateway_id),
        )
        if found is None:
            return False
        detail = encode_detail(changed(msgspec.json.decode(found[0], type=CallDetail)))
        connection.execute(
            f"UPDATE calls SET detail = ? WHERE {OF_ACCOUNT} AND log_id = ? AND detail = ?",
            (detail, *key, log_id, found[0]),
        )
        if connection.changes():  # otherwise another process has changed it meanwhile
            return True


def _forget(connection: Connection, gateway: tuple[int, str, str], which: str, *values: object) -> int:
    old = rows(
        connection,
        "SELECT bucket, account_id, log_id FROM calls INDEXED BY calls_of_gateway "
        f"WHERE bucket = ? AND account_id = ? AND gateway_id = ? AND logged = 1 AND {which}",
        (*gateway, *values),
    )
    for key in old:
        connection.execute(
            "UPDATE calls SET logged = 0, request = NULL, response = NULL, push = NULL "
            "WHERE bucket = ? AND account_id = ? AND log_id = ?",
            key,
        )
    log_totals.subtract(connection, gateway, [log_id for _, _, log_id in old])
    return len(old)


def models_since(connection: Connection, since: int) -> set[tuple[str, str]]:
    """Provider and model of every call that was charged in the hours since then."""
    sql = "SELECT DISTINCT provider, model FROM usage_hours WHERE bucket = ? AND hour >= ?"
    found = rows_everywhere(connection, sql, since)
    return {(str(provider), str(model)) for provider, model in found}


def stated_since(connection: Connection, since: int) -> Iterator[ReceiptRow]:
    """The receipt of every call since then whose provider stated its cost. Reads through all calls."""
    sql = f"SELECT {_RECEIPT} FROM calls c WHERE bucket = ? AND created_at >= ? AND receipt LIKE ?"
    for bucket in buckets_in_use(connection):  # there may be more than fit in memory
        yield from map(receipt_row, connection.execute(sql, (bucket, since, '%"stated_usd"%')))
