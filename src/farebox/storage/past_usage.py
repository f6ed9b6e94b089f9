"""What calls of all accounts add up to, by the kept sums."""

from typing import NamedTuple

from farebox.storage.account_keys import OF_ACCOUNT, key_of
from farebox.storage.every_bucket import buckets_in_use
from farebox.storage.sql import Connection, row

LOOKED_AT = 200_000
"""Sums of an hour, a provider and a model that are looked at: a fifth of a second."""
_SUMS = (
    "SELECT coalesce(sum(calls * wanted), 0), coalesce(sum(charge * wanted), 0), coalesce(sum(tokens_in * wanted), 0), "
    "coalesce(sum(tokens_out * wanted), 0), count(*) FROM (SELECT calls, charge, tokens_in, tokens_out, "
    "CASE WHEN hour >= ? AND provider = coalesce(?, provider) AND model LIKE ? ESCAPE '!' THEN 1 ELSE 0 END AS wanted "
    "FROM usage_hours WHERE {which} ORDER BY bucket, account_id, hour, provider, model LIMIT ?) AS looked_at"
)
"""The order is that of the key, so that the search ends at the limit."""


class PastUsage(NamedTuple):
    """What calls add up to. Amounts in nano-dollars."""

    calls: int
    charge: int
    tokens_in: int
    tokens_out: int
    whole: bool
    """Whether everything was looked at; else the first accounts, in the order of their IDs."""


def past_usage(
    connection: Connection, *, provider: str | None, model: str | None, account_id: str | None, since: int
) -> PastUsage:
    """What calls since an hour add up to, of all accounts or one, by the kept sums; `model` may end with `*`. Of all
    accounts it looks at LOOKED_AT sums."""
    wanted = "*" if model is None else model
    escaped = "".join(f"!{sign}" if sign in "!%_" else sign for sign in wanted.rstrip("*"))
    test = (since, provider, escaped + ("%" if wanted.endswith("*") else ""))
    if account_id is not None:
        sql = _SUMS.format(which=f"{OF_ACCOUNT} AND hour >= ?")
        looked = [_sums(connection, sql, (*test, *key_of(connection, account_id), since), LOOKED_AT)]
        most = LOOKED_AT
    else:
        buckets = buckets_in_use(connection)
        most = LOOKED_AT // len(buckets)
        looked = [_sums(connection, _SUMS.format(which="bucket = ?"), (*test, bucket), most) for bucket in buckets]
    calls, charge, tokens_in, tokens_out, _ = (sum(column) for column in zip(*looked, strict=True))
    return PastUsage(calls, charge, tokens_in, tokens_out, all(sums[-1] < most for sums in looked))


def _sums(connection: Connection, sql: str, values: tuple[object, ...], most: int) -> tuple[int, ...]:
    found = row(connection, sql, (*values, most))
    assert found is not None, "sums are one row"
    return tuple(int(value) for value in found)
