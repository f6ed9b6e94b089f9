"""Usage by window and model, from the hourly sums (usage_hours): fast however many calls there were."""

from dataclasses import dataclass

from farebox.storage.account_keys import OF_ACCOUNT, key_of
from farebox.storage.sql import Connection, rows


@dataclass(frozen=True, slots=True)
class UsageSum:
    """The calls of one model in one window. `start` in milliseconds, `charge` in nano-dollars."""

    start: int
    provider: str
    model: str
    calls: int
    charge: int
    tokens_in: int
    tokens_out: int


def usage_sums(connection: Connection, account_id: str, start: int, end: int, window_ms: int) -> list[UsageSum]:
    """The sums of the hours that begin in [start, end), by window and model, oldest first."""
    found = rows(
        connection,
        "SELECT hour - hour % ?, provider, model, sum(calls), sum(charge), sum(tokens_in), sum(tokens_out) "
        f"FROM usage_hours WHERE {OF_ACCOUNT} AND hour >= ? AND hour < ? GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        (window_ms, *key_of(connection, account_id), start, end),
    )
    return [
        UsageSum(int(at), str(provider), str(model), *(int(figure) for figure in figures))
        for at, provider, model, *figures in found
    ]
