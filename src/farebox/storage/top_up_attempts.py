"""The store of attempts: every attempted charge of a card, written before it is made. The guards count these."""

from farebox.payments.charge_attempts import Attempt, AttemptOutcome
from farebox.payments.model import TopUp
from farebox.storage.account_keys import OF_ACCOUNT, key_of
from farebox.storage.sql import Connection, row, rows

_FIELDS = Attempt.__struct_fields__
_COLUMNS = ", ".join(_FIELDS)
_OF_TOP_UP = f"{OF_ACCOUNT} AND top_up_id = ? AND attempt = ?"


def begin_attempt(connection: Connection, top_up: TopUp, at: int) -> None:
    """Write the attempt numbered `top_up.attempt`; its card is charged after this is committed."""
    connection.execute(
        f"INSERT INTO top_up_attempts (bucket, account_id, {_COLUMNS}) VALUES (?, ?{', ?' * len(_FIELDS)})",
        (
            *key_of(connection, top_up.account_id),
            top_up.top_up_id,
            top_up.attempt,
            top_up.kind,
            top_up.fingerprint or "",
            top_up.charge_cents,
            at,
            None,
            None,
            None,
        ),
    )


def end_attempt(
    connection: Connection, top_up: TopUp, outcome: AttemptOutcome, at: int, decline_code: str | None = None
) -> None:
    """Record the result of the latest attempt, unless it has a final one already."""
    connection.execute(
        "UPDATE top_up_attempts SET outcome = ?, decline_code = ?, ended_at = ? "
        f"WHERE {_OF_TOP_UP} AND (outcome IS NULL OR outcome = 'action_required')",
        (outcome, decline_code, at, *key_of(connection, top_up.account_id), top_up.top_up_id, top_up.attempt),
    )


def latest_attempt(connection: Connection, top_up: TopUp) -> Attempt | None:
    """The attempt numbered `top_up.attempt`; None before the first."""
    found = row(
        connection,
        f"SELECT {_COLUMNS} FROM top_up_attempts WHERE {_OF_TOP_UP}",
        (*key_of(connection, top_up.account_id), top_up.top_up_id, top_up.attempt),
    )
    return None if found is None else Attempt(**dict(zip(_FIELDS, found, strict=True)))


def attempts_since(connection: Connection, account_id: str, since: int) -> list[Attempt]:
    """The account's attempts since then, the oldest first."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM top_up_attempts WHERE {OF_ACCOUNT} AND started_at >= ? "
        "ORDER BY started_at, top_up_id, attempt",
        (*key_of(connection, account_id), since),
    )
    return [Attempt(**dict(zip(_FIELDS, fields, strict=True))) for fields in found]
