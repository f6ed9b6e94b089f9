"""Reads for the control plane: usage sums and log rows. (The statement is in storage.transfer_statement.)

Everything here may take long and runs through Database.scan. Only this module has SQL that differs between the two
engines (JSON inside a row).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from farebox.storage.account_keys import OF_ACCOUNT, AccountKey, key_of
from farebox.storage.calls import COLUMNS, CallRow, call_of
from farebox.storage.log_totals import id_at, log_total
from farebox.storage.sql import Connection, row, rows

# Usage ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UsageWindow:
    """The total charge of the calls in one window. `start` in milliseconds, `charge` in nano-dollars."""

    start: int
    calls: int
    charge: int


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """The total charge of the calls of one model, in nano-dollars."""

    provider: str
    model: str
    calls: int
    charge: int


def usage_by_window(connection: Connection, account_id: str, start: int, end: int, window_ms: int) -> list[UsageWindow]:
    """The windows with usage whose hours begin in [start, end), oldest first; empty windows are left out."""
    found = rows(
        connection,
        "SELECT hour - hour % ?, sum(calls), sum(charge) FROM usage_hours "
        f"WHERE {OF_ACCOUNT} AND hour >= ? AND hour < ? GROUP BY 1 ORDER BY 1",
        (window_ms, *key_of(connection, account_id), start, end),
    )
    return [UsageWindow(*fields) for fields in found]


def usage_by_model(connection: Connection, account_id: str, start: int, end: int) -> list[ModelUsage]:
    """The models with usage whose hours begin in [start, end), by name."""
    found = rows(
        connection,
        "SELECT provider, model, sum(calls), sum(charge) FROM usage_hours "
        f"WHERE {OF_ACCOUNT} AND hour >= ? AND hour < ? GROUP BY provider, model ORDER BY provider, model",
        (*key_of(connection, account_id), start, end),
    )
    return [ModelUsage(*fields) for fields in found]


def metered_days(
    connection: Connection, account_id: str, provider: str, start: int, end: int
) -> list[tuple[int, str, int, int, int]]:
    """What an account's calls to a provider on the operator's keys cost the operator, by UTC day and model: day
    (milliseconds), model, calls, cost (nano-dollars, without a markup), tokens. The calls began in [start, end), and
    reached the provider."""
    found = rows(
        connection,
        "SELECT created_at - created_at % 86400000, model, count(*), sum(cost), "
        "sum(coalesce(tokens_in, 0) + coalesce(tokens_out, 0)) FROM calls "
        f"WHERE {OF_ACCOUNT} AND log_id >= ? AND log_id < ? AND provider = ? "
        "AND (status_code < 300 OR cost > 0) "
        f"AND {detail_flag('own_key', default=False)} = 0 AND {detail_flag('cached', default=False)} = 0 "
        "GROUP BY 1, 2 ORDER BY 1, 2",
        (*key_of(connection, account_id), id_at(start), id_at(end), provider),
    )
    return [(int(day), str(model), int(calls), int(cost), int(tokens)) for day, model, calls, cost, tokens in found]


def classified_calls(
    connection: Connection, account_id: str, gateway_id: str, start: int, end: int, limit: int = 1_000
) -> list[tuple[str, str, str, str, int, int, int, int]]:
    """Sums over the calls in the gateway's log that were classified and began in [start, end): provider, model, task,
    model fit, calls, tokens in, tokens out, cost (nano-dollars). The highest cost first."""
    task, fit = _detail("task"), _detail("model_fit")
    found = rows(
        connection,
        f"SELECT provider, model, {task}, {fit}, count(*), sum(coalesce(tokens_in, 0)), sum(coalesce(tokens_out, 0)), "
        f"sum(cost) FROM calls WHERE {OF_ACCOUNT} AND gateway_id = ? AND logged = 1 AND log_id >= ? AND log_id < ? "
        f"AND {task} IS NOT NULL GROUP BY 1, 2, 3, 4 ORDER BY 8 DESC, 1, 2, 3, 4 LIMIT ?",
        (*key_of(connection, account_id), gateway_id, id_at(start), id_at(end), limit),
    )
    return [(*map(str, fields[:4]), *map(int, fields[4:])) for fields in found]  # type: ignore[misc]


# Logs -------------------------------------------------------------------------------------------------------------

Operator: TypeAlias = Literal["eq", "neq", "contains", "lt", "gt", "gte", "lte"]
ColumnKind: TypeAlias = Literal["text", "number", "money", "time", "flag"]


@dataclass(frozen=True, slots=True)
class LogColumn:
    """A column to filter logs by: its SQL, and the type of its values (money: nano-dollars, time: milliseconds)."""

    sql: str
    kind: ColumnKind
    of_metadata: bool = False
    """The SQL tests one entry of the row's metadata; any entry may match."""


_ENTRY = (
    "/* sqlite: */ CASE entry.type WHEN 'true' THEN 'true' WHEN 'false' THEN 'false' "
    "ELSE CAST(entry.value AS TEXT) END "
    "/* postgres: (entry.value #>> '{}') COLLATE \"C\" */"
)


def _detail(name: str) -> str:
    """A field of the row's detail, as text; NULL if it has its default."""
    return f"CAST(detail /* postgres: ::json */ ->> '{name}' AS TEXT) /* postgres: COLLATE \"C\" */"


def detail_text(name: str) -> str:
    """A field of the row's detail, as text in SQL; empty if it has its default."""
    return f"coalesce({_detail(name)}, '')"


def rare_text(name: str) -> str:
    """The same for a field that most rows do not have: their detail is not parsed, because that takes ten times as
    long."""
    return f"CASE WHEN detail LIKE '%\"{name}\":%' THEN {detail_text(name)} ELSE '' END"


def detail_flag(name: str, *, default: bool, wanted: bool = True) -> str:
    """1 if the flag is `wanted`, else 0. JSON's true is 1 in SQLite and 'true' in PostgreSQL."""
    there, absent = (1, 0) if wanted else (0, 1)
    is_set = f"coalesce({_detail(name)}, '{int(default)}') IN ('1', 'true')"
    return f"CASE WHEN {is_set} THEN {there} ELSE {absent} END"


_FEEDBACK = "CAST(detail /* postgres: ::json */ ->> 'feedback' AS NUMERIC)"

LOG_COLUMNS: dict[str, LogColumn] = {
    "id": LogColumn("log_id", "text"),
    "created_at": LogColumn("created_at", "time"),
    "request_content_type": LogColumn(detail_text("request_content_type"), "text"),
    "response_content_type": LogColumn(detail_text("response_content_type"), "text"),
    "request_type": LogColumn(detail_text("request_type"), "text"),
    "success": LogColumn("success", "flag"),
    "cached": LogColumn(detail_flag("cached", default=False), "flag"),
    "provider": LogColumn("provider", "text"),
    "model": LogColumn("model", "text"),
    "model_type": LogColumn("''", "text"),
    "cost": LogColumn("cost", "money"),
    "tokens": LogColumn("coalesce(tokens_in, 0) + coalesce(tokens_out, 0)", "number"),
    "tokens_in": LogColumn("tokens_in", "number"),
    "tokens_out": LogColumn("tokens_out", "number"),
    "duration": LogColumn("duration", "number"),
    "feedback": LogColumn(_FEEDBACK, "number"),
    "event_id": LogColumn(detail_text("event_id"), "text"),
    "metadata.key": LogColumn("entry.key", "text", of_metadata=True),
    "metadata.value": LogColumn(_ENTRY, "text", of_metadata=True),
    "authentication": LogColumn(detail_flag("authenticated", default=True), "flag"),
    "wholesale": LogColumn(detail_flag("own_key", default=False, wanted=False), "flag"),
    "user_agent": LogColumn(detail_text("user_agent"), "text"),
    "compatibilityMode": LogColumn(detail_flag("common_form", default=False), "flag"),
    "dlp_action": LogColumn(detail_text("dlp_action"), "text"),
}

LOG_ORDERS: dict[str, str] = {
    "created_at": "log_id",  # a log ID begins with its time, and the index is in that order
    "provider": "provider",
    "model": "model",
    "model_type": "log_id",
    "success": "success",
    "cached": detail_flag("cached", default=False),
    "cost": "cost",
    "tokens_in": "coalesce(tokens_in, 0)",
    "tokens_out": "coalesce(tokens_out, 0)",
    "duration": "duration",
    "feedback": f"coalesce({_FEEDBACK}, 0)",  # 0 means not rated
}


@dataclass(frozen=True, slots=True)
class LogCondition:
    """A test of one of LOG_COLUMNS against values of its kind: it must match any of them; with `neq`, it must equal
    none."""

    column: str
    operator: Operator
    values: tuple[str | int | float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """Which log rows to list. All conditions must hold; `search` must occur in some value of the metadata."""

    conditions: Sequence[LogCondition] = ()
    any_of: Sequence[Sequence[LogCondition]] | None = None
    """If given, all conditions of any of these lists must hold too."""
    search: str = ""
    order: str = "created_at"
    descending: bool = True
    offset: int = 0
    limit: int = 20
    extremes: bool = False
    """Whether to compute the extremes too, which reads every row."""


@dataclass(frozen=True, slots=True)
class LogExtremes:
    """The smallest and largest figures of all rows that a query finds."""

    cost: tuple[int, int]
    tokens_in: tuple[int, int]
    tokens_out: tuple[int, int]
    total_tokens: tuple[int, int]
    duration: tuple[int, int]


@dataclass(frozen=True, slots=True)
class LogPage:
    """One page of what a query finds; `total` counts the rows of all pages. Rows come without their bodies."""

    calls: list[CallRow]
    total: int
    extremes: LogExtremes | None
    counted: int = 0
    """How many rows were counted for a total that can be stored (storage.log_totals)."""


def list_logs(connection: Connection, account_id: str, gateway_id: str, query: LogQuery) -> LogPage:
    """One page of a gateway's log."""
    where, values = _where(key_of(connection, account_id), gateway_id, query)
    found = rows(
        connection,
        f"SELECT {COLUMNS} FROM calls WHERE {where} ORDER BY {_order(query)} LIMIT ? OFFSET ?",
        (*values, query.limit, query.offset),
    )
    calls = [call_of(fields) for fields in found]
    extremes = _extremes(connection, where, values) if query.extremes else None
    if not query.conditions and not query.search:
        total, counted = log_total(connection, account_id, gateway_id)
        return LogPage(calls, total, extremes, counted)
    matching = row(connection, f"SELECT count(*) FROM calls WHERE {where}", values)
    return LogPage(calls, int(matching[0]) if matching else 0, extremes)


def find_log_ids(connection: Connection, account_id: str, gateway_id: str, query: LogQuery) -> list[str]:
    """The IDs of the calls that `list_logs` would list."""
    where, values = _where(key_of(connection, account_id), gateway_id, query)
    found = rows(
        connection,
        f"SELECT log_id FROM calls WHERE {where} ORDER BY {_order(query)} LIMIT ? OFFSET ?",
        (*values, query.limit, query.offset),
    )
    return [log_id for (log_id,) in found]


@dataclass(frozen=True, slots=True)
class LogFigures:
    """Sums over logs. `cost` in nano-dollars, `duration` in milliseconds."""

    calls: int
    cost: int
    duration: int
    rated: int
    """Logs with feedback other than 0."""
    positive: int
    """Those among them with feedback above 0."""


def log_figures(connection: Connection, account_id: str, gateway_id: str, query: LogQuery) -> LogFigures:
    """The sums over all logs that the query finds. The sum of costs is exact up to 2**53, and has no upper limit."""
    where, values = _where(key_of(connection, account_id), gateway_id, query)
    found = row(
        connection,
        "SELECT count(*), coalesce(sum(CAST(cost AS DOUBLE PRECISION)), 0), coalesce(sum(duration), 0), "
        f"coalesce(sum(CASE WHEN {_FEEDBACK} <> 0 THEN 1 ELSE 0 END), 0), "
        f"coalesce(sum(CASE WHEN {_FEEDBACK} > 0 THEN 1 ELSE 0 END), 0) FROM calls WHERE {where}",
        values,
    )
    assert found is not None
    return LogFigures(*(int(figure) for figure in found))


def _order(query: LogQuery) -> str:
    """`log_id` must not be named twice: SQLite would then not use the index of the gateway's logs."""
    direction = "DESC" if query.descending else "ASC"
    return ", ".join(f"{column} {direction}" for column in dict.fromkeys((LOG_ORDERS[query.order], "log_id")))


def _extremes(connection: Connection, where: str, values: tuple[object, ...]) -> LogExtremes:
    figures = ("cost", "tokens_in", "tokens_out", LOG_COLUMNS["tokens"].sql, "duration")
    columns = ", ".join(f"coalesce(min({figure}), 0), coalesce(max({figure}), 0)" for figure in figures)
    found = row(connection, f"SELECT {columns} FROM calls WHERE {where}", values)
    assert found is not None
    return LogExtremes(*((int(found[at]), int(found[at + 1])) for at in range(0, len(found), 2)))


def find_log(connection: Connection, account_id: str, gateway_id: str, log_id: str) -> CallRow | None:
    """One log row with the bodies that were stored; None if there is none, or the call is not logged."""
    found = row(
        connection,
        f"SELECT {COLUMNS}, request, response FROM calls "
        f"WHERE {OF_ACCOUNT} AND log_id = ? AND gateway_id = ? AND logged = 1",
        (*key_of(connection, account_id), log_id, gateway_id),
    )
    return None if found is None else call_of(found[:-2], *found[-2:])


def _where(key: AccountKey, gateway_id: str, query: LogQuery) -> tuple[str, tuple[object, ...]]:
    parts = [f"{OF_ACCOUNT} AND gateway_id = ? AND logged = 1"]
    values: list[object] = [*key, gateway_id]
    for sql, tested in map(_predicate, query.conditions):
        parts.append(sql)
        values += tested
    if query.any_of is not None:
        either = [list(map(_predicate, conditions)) for conditions in query.any_of]
        texts = (" AND ".join(["TRUE", *(sql for sql, _ in predicates)]) for predicates in either)
        parts.append(f"({' OR '.join(texts) or 'FALSE'})")
        values += [value for predicates in either for _, tested in predicates for value in tested]
    if query.search:
        parts.append(any_entry_contains())
        values.append(query.search)
    return " AND ".join(parts), tuple(values)


_COMPARISONS = {"lt": "<", "gt": ">", "gte": ">=", "lte": "<=", "eq": "=", "neq": "="}


def _predicate(condition: LogCondition) -> tuple[str, list[object]]:
    column = LOG_COLUMNS[condition.column]
    tests: list[str] = []
    values: list[object] = []
    for value in condition.values:
        if value is None:
            tests.append(f"{column.sql} IS NULL")
            continue
        if condition.operator == "contains":
            tests.append(_contains(column.sql))
        else:
            # Numbers may have decimals, whatever the column's type is.
            given = "?" if column.kind in ("text", "flag") else "CAST(? AS NUMERIC)"
            tests.append(f"({column.sql}) {_COMPARISONS[condition.operator]} {given}")
        values.append(value)
    any_of = "(" + " OR ".join(tests or ["FALSE"]) + ")"
    holds = _any_entry(any_of) if column.of_metadata else f"coalesce({any_of}, FALSE)"
    return (f"NOT {holds}" if condition.operator == "neq" else holds), values


def _contains(sql: str) -> str:
    return f'instr(lower({sql}), lower(CAST(? AS TEXT) /* postgres: COLLATE "C" */)) > 0'


def any_entry_contains() -> str:
    """SQL condition: some value of the row's metadata contains a text."""
    return _any_entry(_contains(_ENTRY))


def entry_is() -> str:
    """SQL condition: the row's metadata has an entry with this key and this value."""
    return _any_entry(f'entry.key = ? /* postgres: COLLATE "C" */ AND {_ENTRY} = ?')


REQUEST_CONTAINS = "/* sqlite: */ instr(request, ?) > 0 /* postgres: position(CAST(? AS BYTEA) in request) > 0 */"
"""SQL condition: the row's request contains these bytes."""


def _any_entry(test: str) -> str:
    return f"EXISTS (SELECT 1 FROM json_each(detail /* postgres: ::json */ -> 'metadata') AS entry WHERE {test})"
