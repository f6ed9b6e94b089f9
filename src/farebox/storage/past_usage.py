"""What calls of all accounts add up to, by the kept sums."""

from typing import NamedTuple

from farebox.storage.every_bucket import rows_everywhere
from farebox.storage.sql import Connection


class PastUsage(NamedTuple):
    """What calls add up to. Amounts in nano-dollars."""

    calls: int
    charge: int
    tokens_in: int
    tokens_out: int


def past_usage(
    connection: Connection, *, provider: str | None, model: str | None, account_id: str | None, since: int
) -> PastUsage:
    """What calls since an hour add up to, of all accounts or one, by the kept sums; `model` may end with `*`. Reads the
    hours of every account."""
    wanted = "*" if model is None else model
    escaped = "".join(f"!{sign}" if sign in "!%_" else sign for sign in wanted.rstrip("*"))
    pattern = escaped + ("%" if wanted.endswith("*") else "")
    found = rows_everywhere(
        connection,
        "SELECT coalesce(sum(calls), 0), coalesce(sum(charge), 0), coalesce(sum(tokens_in), 0), "
        "coalesce(sum(tokens_out), 0) FROM usage_hours WHERE bucket = ? AND hour >= ? "
        "AND account_id = coalesce(?, account_id) AND provider = coalesce(?, provider) "
        "AND model LIKE ? ESCAPE '!'",
        since,
        account_id,
        provider,
        pattern,
    )
    sums = [[int(value) for value in fields] for fields in found]
    return PastUsage(*(sum(column) for column in zip(*sums, strict=True)))
