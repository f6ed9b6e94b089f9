"""The store of attempts: every attempted charge of a card, written before it is made. What the guards count."""

from farebox.payments.attempts import Attempt, AttemptOutcome
from farebox.payments.model import TopUp
from farebox.storage.sql import Connection, row, rows

_FIELDS = Attempt.__struct_fields__
_COLUMNS = ", ".join(_FIELDS)
_BUCKET = "(SELECT bucket FROM accounts WHERE account_id = ?)"
_OF_TOP_UP = f"bucket = {_BUCKET} AND account_id = ? AND top_up_id = ? AND attempt = ?"


def begin_attempt(connection: Connection, top_up: TopUp, at: int) -> None:
    """Write the attempt that `top_up.attempt` numbers; its card is asked after this is committed."""
    connection.execute(
        f"INSERT INTO top_up_attempts (bucket, account_id, {_COLUMNS}) "
        f"SELECT bucket, account_id{', ?' * len(_FIELDS)} FROM accounts WHERE account_id = ?",
        (
            top_up.top_up_id,
            top_up.attempt,
            top_up.kind,
            top_up.fingerprint or "",
            top_up.charge_cents,
            at,
            None,
            None,
            None,
            top_up.account_id,
        ),
    )


def end_attempt(
    connection: Connection, top_up: TopUp, outcome: AttemptOutcome, at: int, decline_code: str | None = None
) -> None:
    """Record the result of the latest attempt, unless it is known already; what the owner confirmed may still end."""
    connection.execute(
        "UPDATE top_up_attempts SET outcome = ?, decline_code = ?, ended_at = ? "
        f"WHERE {_OF_TOP_UP} AND (outcome IS NULL OR outcome = 'action_required')",
        (outcome, decline_code, at, top_up.account_id, top_up.account_id, top_up.top_up_id, top_up.attempt),
    )


def latest_attempt(connection: Connection, top_up: TopUp) -> Attempt | None:
    """The attempt that `top_up.attempt` numbers; None before the first."""
    found = row(
        connection,
        f"SELECT {_COLUMNS} FROM top_up_attempts WHERE {_OF_TOP_UP}",
        (top_up.account_id, top_up.account_id, top_up.top_up_id, top_up.attempt),
    )
    return None if found is None else Attempt(**dict(zip(_FIELDS, found, strict=True)))


def attempts_since(connection: Connection, account_id: str, since: int) -> list[Attempt]:
    """The account's attempts since then, the oldest first."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM top_up_attempts WHERE bucket = {_BUCKET} AND account_id = ? AND started_at >= ? "
        "ORDER BY started_at, top_up_id, attempt",
        (account_id, account_id, since),
    )
    return [Attempt(**dict(zip(_FIELDS, fields, strict=True))) for fields in found]
