"""The store of what providers report as billed to the operator, by day and model."""

from collections.abc import Iterable
from typing import NamedTuple

from farebox.storage.sql import Connection, rows


class BilledRow(NamedTuple):
    """What was billed for one model on one day. Figures that the provider did not report are None."""

    day: int
    """Milliseconds since the Unix epoch: the start of the day in UTC."""
    model: str
    amount: int | None
    """Nano-dollars."""
    requests: int | None
    tokens_in: int | None
    tokens_out: int | None


_FIGURES = "amount, requests, tokens_in, tokens_out"


def put_bill(
    connection: Connection, provider: str, source: str, billed: Iterable[BilledRow], days: Iterable[int], at: int,
    *, costs: bool,
) -> None:  # fmt: skip
    """Store these rows in place of what is stored for `days`: with `costs` they replace the amounts, otherwise the
    usage."""
    for day in days:
        cleared = "amount = NULL" if costs else "requests = NULL, tokens_in = NULL, tokens_out = NULL"
        connection.execute(
            f"UPDATE provider_bills SET {cleared} WHERE provider = ? AND source = ? AND day = ?",
            (provider, source, day),
        )
    for row in billed:
        connection.execute(
            f"INSERT INTO provider_bills (provider, source, day, model, {_FIGURES}, imported_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (provider, source, day, model) DO UPDATE SET "
            "amount = coalesce(excluded.amount, provider_bills.amount), "
            "requests = coalesce(excluded.requests, provider_bills.requests), "
            "tokens_in = coalesce(excluded.tokens_in, provider_bills.tokens_in), "
            "tokens_out = coalesce(excluded.tokens_out, provider_bills.tokens_out), imported_at = excluded.imported_at",
            (provider, source, row.day, row.model, row.amount, row.requests, row.tokens_in, row.tokens_out, at),
        )
    connection.execute(
        "DELETE FROM provider_bills WHERE provider = ? AND source = ? AND amount IS NULL AND requests IS NULL "
        "AND tokens_in IS NULL AND tokens_out IS NULL",
        (provider, source),
    )


def billed_between(
    connection: Connection, provider: str, start: int, end: int, source: str | None = None
) -> list[BilledRow]:
    """What was billed on the days in [start, end), from one source or all together."""
    found = rows(
        connection,
        "SELECT day, model, sum(amount), sum(requests), sum(tokens_in), sum(tokens_out) FROM provider_bills "
        "WHERE provider = ? AND day >= ? AND day < ? AND source = coalesce(?, source) "
        "GROUP BY day, model ORDER BY day, model",
        (provider, start, end, source),
    )
    return [
        BilledRow(day, model, *(None if each is None else int(each) for each in rest)) for day, model, *rest in found
    ]
