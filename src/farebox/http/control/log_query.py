"""The query of a log list, from the URL's query: Cloudflare's filters in both encodings, and its older parameters."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import msgspec

from farebox.calls.log_filters import Filter, WrongValue, kind_of, value_of
from farebox.errors import Problem
from farebox.http.control.wire import Paging
from farebox.http.validation import invalid, parse_json
from farebox.storage.call_reports import LOG_COLUMNS, ColumnKind, LogCondition, LogQuery, Operator

LOGS_PER_PAGE_MAX = 50
_FILTERS_MAX = 50
_FLAT = ("filters.key", "filters.operator", "filters.value")

Figure = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]
Order = Literal["created_at", "provider", "model", "model_type", "success", "cached"]
DeleteOrder = Literal[
    "created_at",
    "provider",
    "model",
    "model_type",
    "success",
    "cached",
    "cost",
    "tokens_in",
    "tokens_out",
    "duration",
    "feedback",
]
Direction = Literal["asc", "desc"]


class LogsQuery(Paging, frozen=True, kw_only=True):
    """`filters` is a JSON array of {key, operator, value[]}, or as the official clients send it, `filters.key=…&…`.

    The parameters after `meta_info` are Cloudflare's older ones; costs are in US dollars, durations in milliseconds.
    """

    search: str = ""
    filters: str = ""
    order_by: Order = "created_at"
    order_by_direction: Direction | None = None
    meta_info: bool = False
    direction: Direction | None = None
    start_date: str | None = None
    end_date: str | None = None
    min_cost: Figure | None = None
    max_cost: Figure | None = None
    min_tokens_in: Figure | None = None
    max_tokens_in: Figure | None = None
    min_tokens_out: Figure | None = None
    max_tokens_out: Figure | None = None
    min_total_tokens: Figure | None = None
    max_total_tokens: Figure | None = None
    min_duration: Figure | None = None
    max_duration: Figure | None = None
    feedback: int | None = None
    success: bool | None = None
    cached: bool | None = None
    model: str | None = None
    model_type: str | None = None
    provider: str | None = None
    request_content_type: str | None = None
    response_content_type: str | None = None


class LogsToDelete(msgspec.Struct, frozen=True, kw_only=True):
    """Which logs to delete: those that match all `filters`, and of these the first `limit` in the given order."""

    filters: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 10_000
    order_by: DeleteOrder = "created_at"
    order_by_direction: Direction = "asc"


_OLDER: dict[str, tuple[str, Operator]] = {
    "start_date": ("created_at", "gte"),
    "end_date": ("created_at", "lte"),
    **{f"min_{name}": (name, "gte") for name in ("cost", "tokens_in", "tokens_out", "duration")},
    **{f"max_{name}": (name, "lte") for name in ("cost", "tokens_in", "tokens_out", "duration")},
    "min_total_tokens": ("tokens", "gte"),
    "max_total_tokens": ("tokens", "lte"),
    **{
        name: (name, "eq")
        for name in (
            "feedback",
            "success",
            "cached",
            "model",
            "model_type",
            "provider",
            "request_content_type",
            "response_content_type",
        )
    },
}
"""Older parameter → the column and the comparison it stands for."""


def log_query(query: LogsQuery, pairs: Sequence[tuple[str, str]]) -> LogQuery:
    """The logs to read. `pairs` is the whole query, for the flat encoding of filters. Raises InvalidInput, also for
    unknown parameters: a client that sends one does not want to see all logs."""
    _check_known(pairs, LogsQuery)
    conditions = _conditions(query.filters, pairs)
    for name, (column, operator) in _OLDER.items():
        value = getattr(query, name)
        if value is not None:
            conditions.append(LogCondition(column, operator, (_value(LOG_COLUMNS[column].kind, value, "query", name),)))
    window = query.window(LOGS_PER_PAGE_MAX)
    return LogQuery(
        conditions=conditions,
        search=query.search,
        order=query.order_by,
        descending=(query.order_by_direction or query.direction or "desc") == "desc",
        offset=window.offset,
        limit=window.per_page,
        extremes=query.meta_info,
    )


def delete_query(query: LogsToDelete, pairs: Sequence[tuple[str, str]]) -> LogQuery:
    """The logs to delete. `pairs` is the whole query. Raises InvalidInput, also for unknown parameters: a client that
    sends one, such as the `model` of lists, does not want to delete everything."""
    _check_known(pairs, LogsToDelete)
    return LogQuery(
        conditions=_conditions(query.filters, pairs),
        order=query.order_by,
        descending=query.order_by_direction == "desc",
        limit=query.limit,
    )


def _check_known(pairs: Iterable[tuple[str, str]], kind: type[msgspec.Struct]) -> None:
    """Raises InvalidInput."""
    known = {*kind.__struct_fields__, *_FLAT}
    unknown = ", ".join(sorted({f"'{name[:64]}'" for name, _ in pairs if name not in known}))
    if unknown:
        raise invalid(f"Unrecognized key(s) in object: {unknown}", "query")


def _conditions(filters: str, pairs: Iterable[tuple[str, str]]) -> list[LogCondition]:
    """The filters of either encoding. Raises InvalidInput."""
    found = _json_filters(filters) if filters else _flat_filters(pairs)
    if len(found) > _FILTERS_MAX:
        raise invalid(f"At most {_FILTERS_MAX} filters", "query", "filters")
    return [_condition(item, index) for index, item in enumerate(found)]


def _json_filters(text: str) -> list[Any]:
    try:
        value = parse_json(text.encode())
    except Problem:
        raise invalid("Expected a JSON array of filters", "query", "filters") from None
    if not isinstance(value, list):
        raise invalid("Expected array, received another type", "query", "filters")
    return value


def _flat_filters(pairs: Iterable[tuple[str, str]]) -> list[Any]:
    """The official clients' encoding: `filters.key=…&filters.operator=…&filters.value=…`.

    The TypeScript client writes one filter after the other; the Python client writes all keys, then all operators, then
    all values.
    """
    parts = [(name.removeprefix("filters."), text) for name, text in pairs if name.startswith("filters.")]
    filters: list[dict[str, Any]] = []
    for part, text in parts:
        if not filters or (part != "value" and part in filters[-1]):  # repeated: the next filter begins
            filters.append({"value": []})
        if part == "value":
            filters[-1]["value"].append(text)
        else:
            filters[-1][part] = text
    if all("key" in item and "operator" in item for item in filters):
        return filters
    keys, operators, values = ([text for part, text in parts if part == name] for name in ("key", "operator", "value"))
    if not len(keys) == len(operators) == len(values):
        message = "It is ambiguous which value belongs to which filter: send the filters as a JSON array"
        raise invalid(message, "query", "filters")
    grouped = zip(keys, operators, values, strict=True)
    return [{"key": key, "operator": operator, "value": [value]} for key, operator, value in grouped]


def _condition(item: Any, index: int) -> LogCondition:
    where = ("query", "filters", index)
    try:
        wanted = msgspec.convert(item, Filter)
    except msgspec.ValidationError:
        keys = "key, operator (eq, neq, contains, lt or gt) and value (an array)"
        raise invalid(f"A filter is an object of {keys}", *where) from None
    if wanted.key not in LOG_COLUMNS:
        choices = " | ".join(f"'{name}'" for name in LOG_COLUMNS)
        raise invalid(f"Invalid enum value. Expected {choices}, received '{wanted.key[:64]}'", *where, "key")
    values = [_value(kind_of(wanted), value, *where, "value", at) for at, value in enumerate(wanted.value)]
    return LogCondition(wanted.key, wanted.operator, tuple(values))


def _value(kind: ColumnKind, value: object, *where: str | int) -> str | int | float | None:
    """A filter's value in the form of its column. Raises InvalidInput."""
    try:
        return value_of(kind, value)
    except WrongValue as error:
        raise invalid(str(error), *where) from None
