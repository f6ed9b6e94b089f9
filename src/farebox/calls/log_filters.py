"""Filters over logs as callers write them, translated for the store."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

from farebox.money import NANOS_PER_USD
from farebox.storage.call_reports import LOG_COLUMNS, ColumnKind, LogCondition

_FLAGS: Final = {"true": 1, "1": 1, "false": 0, "0": 0}
_is_number = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?").fullmatch


class WrongValue(Exception):
    """A filter's value does not have the type of its key; the message uses the words of Cloudflare's API."""


class Filter(msgspec.Struct, frozen=True):
    key: str
    operator: Literal["eq", "neq", "contains", "lt", "gt"]
    value: list[str | float | bool | None]


def kind_of(wanted: Filter) -> ColumnKind:
    """The type of values that the filter's key is compared with."""
    return "text" if wanted.operator == "contains" else LOG_COLUMNS[wanted.key].kind


def value_of(kind: ColumnKind, value: object) -> str | int | float | None:
    """A filter's value in the form of its column: dollars as nano-dollars, dates as milliseconds. Raises WrongValue."""
    if value is None:
        return None
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if kind == "text":
        return text[:-2] if isinstance(value, float) and text.endswith(".0") else text
    if kind == "flag":
        if text.removesuffix(".0") not in _FLAGS:
            raise WrongValue("Expected boolean, received string")
        return _FLAGS[text.removesuffix(".0")]
    if kind == "time" and not _is_number(text):
        return _milliseconds(text)
    if not _is_number(text) or abs(float(text)) > 1e15:
        raise WrongValue("Expected number, received string")
    return float(text) * NANOS_PER_USD if kind == "money" else float(text)


def conditions_of(filters: Sequence[Filter]) -> list[LogCondition]:
    """The conditions of stored filters. A value that does not have the type of its key matches nothing."""
    found = []
    for wanted in filters:
        values = []
        for value in wanted.value:
            try:
                values.append(value_of(kind_of(wanted), value))
            except WrongValue:
                continue
        found.append(LogCondition(wanted.key, wanted.operator, tuple(values)))
    return found


def _milliseconds(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise WrongValue("Invalid datetime") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)
