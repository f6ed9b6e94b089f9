"""Forms over what the API takes: fields named as its values are, and their texts in both directions.

Nothing is checked here. A text that is no number goes to the API as the text it is, and what the API says of it is
shown at the field.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import msgspec

from farebox.http.validation import InvalidInput

Kind: TypeAlias = Literal["switch", "number", "choice", "text", "area", "lines", "pairs", "json", "several"]
Values: TypeAlias = Mapping[str, Any]
"""As JSON has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One value."""

    name: str
    """Where the API has it: `cache_ttl`, `otel.0.url`."""
    label: str
    kind: Kind = "text"
    """lines: a list of texts, one a line. pairs: an object of texts, `name: value` in each line. json: as it is.
    several: those of the options that are ticked."""
    hint: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    wide: bool = False
    secret: bool = False
    """Not shown again, and not filled in by the browser."""
    more: bool = False
    """Rarely needed: it is there where one asks for more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Fields that are shown and saved together."""

    name: str
    title: str
    fields: Callable[[Values], Sequence[Field]]
    """By what is stored, or was sent: a list has a field for each of its items, and for one more."""
    body: Callable[[Mapping[str, str]], dict[str, Any]]
    """What the API is sent, of the form."""
    hint: str = ""
    keys: bool = False
    """It has keys, or says where what was said is sent: it is saved with a recent proof only."""


def group(name: str, title: str, *fields: Field, hint: str = "") -> Group:
    """A group whose fields are always the same."""
    return Group(name=name, title=title, hint=hint, fields=lambda _: fields, body=lambda form: values_of(fields, form))


def values_of(fields: Iterable[Field], form: Mapping[str, str]) -> dict[str, Any]:
    """What the API is sent for these fields, by the last part of their names. What is left empty is null."""
    return {each.name.rpartition(".")[2]: _value(each, _sent(each, form)) for each in fields}


def _sent(each: Field, form: Mapping[str, str]) -> str:
    """The text of a field; of one with several options, a line for each that is ticked."""
    if each.kind == "several":
        return "\n".join(option for option in each.options if form.get(f"{each.name}:{option}") == "on")
    return form.get(each.name, "")


def texts_of(fields: Iterable[Field], values: Values) -> dict[str, str]:
    """What the fields of a form are filled with, by their whole names."""
    return {each.name: _text(each, _at(values, each.name)) for each in fields}


@dataclass(frozen=True, slots=True)
class ShownGroup:
    """A group as a page shows it: its fields with their texts, and what is wrong with them."""

    group: Group
    fields: Sequence[Field]
    texts: Mapping[str, str]
    at: Mapping[str, str]
    others: list[str]


def shown(group: Group, values: Values, error: InvalidInput | None = None) -> ShownGroup:
    """With what is stored; or with what was sent, and what the API says of it."""
    fields = group.fields(values)
    at, others = ({}, []) if error is None else faults_at(error, fields)
    return ShownGroup(group, fields, texts_of(fields, values), at, others)


def faults_at(error: InvalidInput, fields: Sequence[Field]) -> tuple[dict[str, str], list[str]]:
    """What the API says: of each field, and of what has no field here."""
    names = {each.name for each in fields}
    at: dict[str, str] = {}
    others: list[str] = []
    for fault in error.faults:
        path = [str(step) for step in fault.path[1:]]
        place = next((name for end in range(len(path), 0, -1) if (name := ".".join(path[:end])) in names), None)
        inner = next((each.name for each in fields if path and each.name.startswith(f"{'.'.join(path)}.")), None)
        if place is None and inner is not None:
            at[inner] = fault.message
        elif place is None:
            others.append(f"{'.'.join(path)}: {fault.message}" if path else fault.message)
        else:
            rest = ".".join(path)[len(place) :].lstrip(".")
            said = f"{rest}: {fault.message}" if rest else fault.message
            at[place] = f"{at[place]}; {said}" if place in at else said
    return at, others


_is_integer = re.compile(r"-?\d{1,18}").fullmatch
_is_decimal = re.compile(r"-?\d{1,18}(\.\d{1,18})?(e-?\d{1,2})?", re.IGNORECASE).fullmatch


def _value(each: Field, text: str) -> Any:
    stripped = text.strip()
    if each.kind == "switch":
        return text == "on"
    if each.kind in ("lines", "several"):
        return [line.strip() for line in text.splitlines() if line.strip()]
    if each.kind == "pairs":
        pairs = [line.partition(":") for line in text.splitlines() if line.strip()]
        return {name.strip(): value.strip() for name, _, value in pairs}
    if not stripped:
        return None
    if each.kind == "json":
        return json_of(stripped)
    if each.kind == "number":
        return int(stripped) if _is_integer(stripped) else float(stripped) if _is_decimal(stripped) else stripped
    return stripped


def json_of(text: str) -> Any:
    """The value; where it is none, the text itself, of which the API says what it expected."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return text


def words_of(text: str) -> list[str]:
    """Names, one a line or separated by spaces or commas."""
    return [word for word in re.split(r"[\s,]+", text) if word]


def _text(each: Field, value: Any) -> str:
    if each.kind == "switch":
        return "on" if value else ""
    if each.kind in ("lines", "several"):
        return "\n".join(value or ())
    if each.kind == "pairs":
        return "\n".join(f"{name}: {text}" for name, text in (value or {}).items())
    if each.kind == "json" and value is not None and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        return f"{value:.15f}".rstrip("0").rstrip(".")
    return "" if value is None else str(value)


def _at(values: Any, name: str) -> Any:
    """The value of this name; None where there is none."""
    for step in name.split("."):
        if isinstance(values, list):
            values = values[int(step)] if int(step) < len(values) else None
        else:
            values = values.get(step) if isinstance(values, dict) else None
    return values
