"""The store of usage by what calls were made with: gateway, token, user, metadata. Sums by hour and by day.

Charges are transfers, transfers never change, and an account's versions have no gaps: a sum of all charges up to a
version stays correct forever, whatever is deleted from the log. So the commit of a call need not update the sums. The
charges above an account's mark are read in steps (`new_charges`) and added to its sums in one transaction with the new
mark (`keep`): each is counted exactly once, however many processes do this and however often.

The number of rows of an account is bounded: each dimension has at most VALUES_MAX values a day, and further ones are
counted as `OTHER`.

Times are milliseconds since the Unix epoch.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, Literal, NamedTuple, TypeAlias

from farebox.calendar import DAY_MS
from farebox.storage.account_keys import OF_ACCOUNT, AccountKey, find_key, key_of
from farebox.storage.every_bucket import rows_available
from farebox.storage.sql import Connection, row, rows

Span: TypeAlias = Literal["hour", "day"]

OTHER: Final = "\x1fother"
"""The value under which everything beyond the bound is counted; no caller's value is stored with this prefix."""
METADATA: Final = "metadata"
"""The dimension of metadata keys; the values of a key are in `metadata.KEY`."""
VALUES_MAX: Final = 100
KEYS_MAX: Final = 10
"""The same bound for metadata keys: the values of further keys are not counted separately."""
VALUE_CHARACTERS: Final = 256
HOURS_MS: Final = 35 * DAY_MS
DAYS_MS: Final = 1_100 * DAY_MS
"""How long sums of hours and of days are kept."""
_TOGETHER: Final = 100
"""Rows that are written by one statement."""
_ROW: Final = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
BODY_MAX: Final = 65_536
"""Largest request, in bytes, that is searched for its end user."""
_CHARGE: Final = len("charge:")
_LOG_ID: Final = 36
"""Characters of a log ID. The second transfer of a charge that draws on two lots is `charge:ID/2`."""


class Charge(NamedTuple):
    """One transfer of a charge, with its call. Nano-dollars, tokens, milliseconds."""

    part: bool
    """Whether it is not the first transfer of its charge."""
    amount: int
    at: int
    """When the call began; if there is no call (a charge of an application, or of a hold in doubt), when the charge was
    made."""
    gateway_id: str
    tokens_in: int
    tokens_out: int
    detail: str
    """JSON: storage.calls.CallDetail; empty where there is no call."""
    request: bytes | None
    """The request's body, if the log has it and it is not large."""


@dataclass(frozen=True, slots=True)
class NewCharges:
    """The charges with `after` < version <= `upto`; `at` is when the last transfer was made, None: there is none."""

    account_id: str
    after: int
    upto: int
    at: int | None
    charges: list[Charge]
    left: int
    """How many transfers there were above `upto`."""


@dataclass(slots=True)
class Sum:
    """A sum of calls. Nano-dollars, tokens."""

    calls: int = 0
    charge: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def add(self, calls: int, charge: int, tokens_in: int, tokens_out: int) -> None:
        self.calls += calls
        self.charge += charge
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out


class SumKey(NamedTuple):
    """What a sum counts; `hour` is the start of the hour in milliseconds."""

    dimension: str
    hour: int
    value: str


class ValueSum(NamedTuple):
    """The calls with one value in one window. `start` in milliseconds, `charge` in
    nano-dollars."""

    start: int
    value: str
    calls: int
    charge: int
    tokens_in: int
    tokens_out: int


def new_charges(connection: Connection, account_id: str, limit: int) -> NewCharges:
    """The next charges above the mark, from at most `limit` transfers."""
    key = key_of(connection, account_id)
    latest = row(connection, f"SELECT version FROM balances WHERE {OF_ACCOUNT}", key)
    after, last = _mark(connection, key), int(latest[0]) if latest else 0
    upto = min(last, after + limit)
    end = None
    if upto > after:
        end = row(connection, f"SELECT at FROM transfers WHERE {OF_ACCOUNT} AND version = ?", (*key, upto))
    found = rows(
        connection,
        "SELECT CASE WHEN t.transfer_id LIKE '%/%' THEN 1 ELSE 0 END, t.amount, coalesce(c.created_at, t.at), "
        "c.gateway_id, c.tokens_in, c.tokens_out, c.detail, "
        f"CASE WHEN length(c.request) <= {BODY_MAX} THEN c.request END "
        "FROM transfers t LEFT JOIN calls c ON c.bucket = t.bucket AND c.account_id = t.account_id "
        f"AND c.log_id = substr(t.transfer_id, {_CHARGE + 1}, {_LOG_ID}) "
        "WHERE t.bucket = ? AND t.account_id = ? AND t.version > ? AND t.version <= ? AND t.kind = 'charge' "
        "ORDER BY t.version",
        (*key, after, upto),
    )
    charges = [
        Charge(bool(part), int(amount), int(at), gateway_id or "", tokens_in or 0, tokens_out or 0, detail or "", body)
        for part, amount, at, gateway_id, tokens_in, tokens_out, detail, body in found
    ]
    return NewCharges(account_id, after, upto, None if end is None else int(end[0]), charges, last - upto)


def keep(connection: Connection, new: NewCharges, sums: Mapping[SumKey, Sum], now: int) -> bool:
    """Add the sums of these charges and move the mark, unless another process has done so in the meantime. Returns
    whether it was done here."""
    key = find_key(connection, new.account_id)
    if key is None or new.upto == new.after or _mark(connection, key) != new.after:
        return False
    _add(connection, key, _bounded(connection, key, sums, now))
    connection.execute(
        "INSERT INTO usage_marks (bucket, account_id, version, at, forgot_at) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (bucket, account_id) DO UPDATE SET version = excluded.version, at = excluded.at",
        (*key, new.upto, new.at or now, now),
    )
    _forget_old(connection, key, now)
    return True


def as_of(connection: Connection, account_id: str) -> int | None:
    """When the last transfer in the sums was made, in milliseconds; None: the sums contain all transfers."""
    found = row(
        connection,
        "SELECT m.at FROM balances b LEFT JOIN usage_marks m ON m.bucket = b.bucket AND m.account_id = b.account_id "
        "WHERE b.bucket = ? AND b.account_id = ? AND b.version > coalesce(m.version, 0)",
        key_of(connection, account_id),
    )
    return None if found is None else int(found[0] or 0)


def value_sums(
    connection: Connection, account_id: str, dimension: str, span: Span, start: int, end: int, window_ms: int
) -> list[ValueSum]:
    """The sums of the hours or days that begin in [start, end), by window and value, oldest first."""
    found = rows(
        connection,
        "SELECT start - start % ?, value, sum(calls), sum(charge), sum(tokens_in), sum(tokens_out) FROM usage_values "
        f"WHERE {OF_ACCOUNT} AND span = ? AND dimension = ? AND start >= ? AND start < ? GROUP BY 1, 2 ORDER BY 1, 2",
        (window_ms, *key_of(connection, account_id), span, dimension, start, end),
    )
    return [ValueSum(int(at), str(value), *(int(figure) for figure in figures)) for at, value, *figures in found]


def metadata_keys(connection: Connection, account_id: str, start: int, end: int) -> list[str]:
    """The metadata keys whose values are counted separately on any of these days, by name."""
    found = rows(
        connection,
        "SELECT DISTINCT value FROM usage_values "
        f"WHERE {OF_ACCOUNT} AND span = 'day' AND dimension = ? AND start >= ? AND start < ? ORDER BY 1",
        (*key_of(connection, account_id), METADATA, start - start % DAY_MS, end),
    )
    return [str(value) for (value,) in found if value not in ("", OTHER)]


def accounts_behind(connection: Connection, transfers: int, limit: int) -> list[str]:
    """Accounts with at least this many transfers above their mark; at most `limit` from each bucket."""
    found = rows_available(
        connection,
        "SELECT b.account_id FROM balances b LEFT JOIN usage_marks m "
        "ON m.bucket = b.bucket AND m.account_id = b.account_id "
        "WHERE b.bucket = ? AND b.version >= coalesce(m.version, 0) + ? LIMIT ?",
        transfers,
        limit,
    )
    return [str(account_id) for (account_id,) in found]


def clipped(value: str) -> str:
    """A caller's text as it is stored as a value."""
    return value.replace("\x00", "\ufffd").lstrip("\x1f")[:VALUE_CHARACTERS]


@dataclass(slots=True)
class _Known:
    """The values of a dimension that have a sum of their own on one day."""

    values: set[str]
    most: int

    def place(self, value: str) -> str:
        if value in self.values:
            return value
        if len(self.values) >= self.most:
            return OTHER
        self.values.add(value)
        return value


@dataclass(slots=True)
class _Days:
    """The known values of each dimension and day, read when they are first needed."""

    connection: Connection
    key: AccountKey
    known: dict[tuple[str, int], _Known] = field(default_factory=dict)

    def of(self, dimension: str, day: int) -> _Known:
        found = self.known.get((dimension, day))
        if found is None:
            values = rows(
                self.connection,
                f"SELECT value FROM usage_values WHERE {OF_ACCOUNT} AND span = 'day' AND dimension = ? AND start = ?",
                (*self.key, dimension, day),
            )
            most = KEYS_MAX if dimension == METADATA else VALUES_MAX
            found = _Known({value for (value,) in values if value not in ("", OTHER)}, most)
            self.known[dimension, day] = found
        return found


def _bounded(
    connection: Connection, key: AccountKey, sums: Mapping[SumKey, Sum], now: int
) -> dict[tuple[Span, str, int, str], Sum]:
    """The sums by hour and by day, with no more values than the bounds allow."""
    days, bounded = _Days(connection, key), dict[tuple[Span, str, int, str], Sum]()
    for place in sorted(sums):  # keys of metadata come before their values
        day = place.hour - place.hour % DAY_MS
        if _beyond(days, place.dimension, day):
            continue
        value = days.of(place.dimension, day).place(place.value) if place.value else ""
        for span, start in _spans(place.hour, day, now):
            found = sums[place]
            added = bounded.setdefault((span, place.dimension, start, value), Sum())
            added.add(found.calls, found.charge, found.tokens_in, found.tokens_out)
    return bounded


def _add(connection: Connection, key: AccountKey, sums: Mapping[tuple[Span, str, int, str], Sum]) -> None:
    """Add sums, with many rows in each statement, because on PostgreSQL all other jobs wait meanwhile."""
    rest = [
        (*key, span, dimension, start, value, added.calls, added.charge, added.tokens_in, added.tokens_out)
        for (span, dimension, start, value), added in sorted(sums.items())
    ]
    while rest:
        some, rest = rest[:_TOGETHER], rest[_TOGETHER:]
        connection.execute(
            "INSERT INTO usage_values (bucket, account_id, span, dimension, start, value, calls, charge, tokens_in, "
            f"tokens_out) VALUES {', '.join(_ROW for _ in some)} "
            "ON CONFLICT (bucket, account_id, span, dimension, start, value) DO UPDATE SET "
            "calls = usage_values.calls + excluded.calls, charge = usage_values.charge + excluded.charge, "
            "tokens_in = usage_values.tokens_in + excluded.tokens_in, "
            "tokens_out = usage_values.tokens_out + excluded.tokens_out",
            tuple(chain.from_iterable(some)),
        )


def _beyond(days: _Days, dimension: str, day: int) -> bool:
    """Whether the dimension is a metadata key whose values are not counted separately."""
    kind, _, name = dimension.partition(".")
    return kind == METADATA and bool(name) and name not in days.of(METADATA, day).values


def _spans(hour: int, day: int, now: int) -> Iterator[tuple[Span, int]]:
    if hour >= now - HOURS_MS:
        yield "hour", hour
    yield "day", day


def _forget_old(connection: Connection, key: AccountKey, now: int) -> None:
    """Remove old sums, once a day; those of an account that no longer changes are left."""
    connection.execute(
        f"UPDATE usage_marks SET forgot_at = ? WHERE {OF_ACCOUNT} AND forgot_at < ?", (now, *key, now - DAY_MS)
    )
    if connection.changes():
        for span, before in _OLD:
            connection.execute(
                f"DELETE FROM usage_values WHERE {OF_ACCOUNT} AND span = ? AND start < ?", (*key, span, now - before)
            )


_OLD: Final[Iterable[tuple[Span, int]]] = (("hour", HOURS_MS), ("day", DAYS_MS))


def _mark(connection: Connection, key: AccountKey) -> int:
    found = row(connection, f"SELECT version FROM usage_marks WHERE {OF_ACCOUNT}", key)
    return int(found[0]) if found else 0
