"""What calls of all accounts add up to, by the kept sums."""

from typing import NamedTuple

from farebox.storage.account_keys import OF_ACCOUNT, key_of
from farebox.storage.every_bucket import rows_everywhere
from farebox.storage.sql import Connection, rows

_SUMS = (
    "SELECT coalesce(sum(calls), 0), coalesce(sum(charge), 0), coalesce(sum(tokens_in), 0), "
    "coalesce(sum(tokens_out), 0) FROM usage_hours"
)


class PastUsage(NamedTuple):
    """What calls add up to. Amounts in nano-dollars."""

    calls: int
    charge: int
    tokens_in: int
    tokens_out: int


def past_usage(
    connection: Connection, *, provider: str | None, model: str | None, account_id: str | None, since: int
) -> PastUsage:
    """What calls since an hour add up to, of all accounts or one, by the kept sums; `model` may end with `*`. Of all
    accounts it reads every hour that is kept."""
    wanted = "*" if model is None else model
    escaped = "".join(f"!{sign}" if sign in "!%_" else sign for sign in wanted.rstrip("*"))
    pattern = escaped + ("%" if wanted.endswith("*") else "")
    which = "hour >= ? AND provider = coalesce(?, provider) AND model LIKE ? ESCAPE '!'"
    values = (since, provider, pattern)
    if account_id is None:
        found = list(rows_everywhere(connection, f"{_SUMS} WHERE bucket = ? AND {which}", *values))
    else:
        key = key_of(connection, account_id)
        found = rows(connection, f"{_SUMS} WHERE {OF_ACCOUNT} AND {which}", (*key, *values))
    sums = [[int(value) for value in fields] for fields in found]
    return PastUsage(*(sum(column) for column in zip(*sums, strict=True)))
