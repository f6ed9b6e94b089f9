"""A report on how well holds covered the cost of calls, by day, provider, model and kind of unseen input.

It may take long: it reads every call of those days. Run it through Database.scan, or at the command line.
"""

from collections import Counter, defaultdict

import msgspec

from farebox.calendar import DAY_MS
from farebox.storage.every_bucket import rows_everywhere
from farebox.storage.log_totals import id_at
from farebox.storage.sql import Connection


class HoldCoverage(msgspec.Struct, frozen=True, kw_only=True):
    """The calls of one day with one model that brought in the same kinds of unseen input. Amounts in nano-dollars."""

    day: int
    """Start of the day, in milliseconds since the epoch (UTC)."""
    provider: str
    model: str
    kinds: tuple[str, ...]
    calls: int
    held: int
    charged: int
    above: int
    """The amount charged above the holds."""
    written_off: int
    """The amount that was neither held nor available."""


def _text(column: str, name: str) -> str:
    return f"CAST({column} /* postgres: ::json */ ->> '{name}' AS TEXT)"


def _amount(name: str) -> str:
    return f"CAST(coalesce({_text('c.receipt', name)}, '0') AS BIGINT)"


_FIGURES = ("calls", "held", "charged", "above", "written_off")

_COVERED = (
    "SELECT day, provider, model, kinds, count(*), sum(held), sum(charge), "
    "sum(CASE WHEN charge > held THEN charge - held ELSE 0 END), sum(written_off) FROM ("
    f"SELECT c.created_at - c.created_at % {DAY_MS} AS day, c.provider, c.model, c.charge, "
    f"coalesce({_text('c.detail', 'unseen')}, '') AS kinds, {_amount('hold_nanos')} AS held, "
    f"{_amount('written_off_nanos')} AS written_off "
    "FROM accounts a CROSS JOIN calls c WHERE a.bucket = ?1 AND c.bucket = ?1 AND c.account_id = a.account_id "
    "AND c.log_id >= ?2 AND c.receipt IS NOT NULL) AS call "
    "WHERE held > 0 AND (kinds <> '' OR charge > held OR written_off > 0) "
    "GROUP BY day, provider, model, kinds"
)


def hold_coverage(connection: Connection, since: int) -> list[HoldCoverage]:
    """Calls since that time that brought in unseen input, or cost more than was held; newest day first."""
    sums: dict[tuple[int, str, str, str], Counter[str]] = defaultdict(Counter)
    for day, provider, model, kinds, *figures in rows_everywhere(connection, _COVERED, id_at(since)):
        sums[day, provider, model, kinds].update(dict(zip(_FIGURES, map(int, figures), strict=True)))
    found = [
        HoldCoverage(
            day=day, provider=provider, model=model, kinds=tuple(msgspec.json.decode(kinds)) if kinds else (),
            **{name: figures[name] for name in _FIGURES},
        )
        for (day, provider, model, kinds), figures in sums.items()
    ]  # fmt: skip
    return sorted(found, key=lambda each: (-each.day, -each.written_off, each.provider, each.model, each.kinds))
