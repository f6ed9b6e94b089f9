"""Forms for what the API accepts: fields named like the API's values, converted to text and back.

Nothing is checked here. A text that is not a number is sent to the API as text, and the API's error is shown at the
field, in words for people.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import msgspec

from farebox.http.pages.fault_texts import fault_text, place_of, with_place
from farebox.http.validation import Fault, InvalidInput

Kind: TypeAlias = Literal["switch", "number", "choice", "text", "area", "lines", "pairs", "json", "several"]
Values: TypeAlias = Mapping[str, Any]
"""Values as in JSON."""
NESTED_MAX = 100
"""Levels of a JSON value that is typed into a field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """The field of one value."""

    name: str
    """Its place in the API's values: `cache_ttl`, `otel.0.url`."""
    label: str
    kind: Kind = "text"
    """lines: a list of texts, one per line. pairs: an object of texts, with `name: value` on each line. json: any JSON
    value. several: the selected options."""
    hint: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    wide: bool = False
    secret: bool = False
    """Whether the value is not shown again, and not filled in by the browser."""
    more: bool = False
    """Whether it is rarely needed, and so shown only on request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldGroup:
    """Fields that are shown and saved together."""

    name: str
    title: str
    fields: Callable[[Values], Sequence[Field]]
    """The fields, given the stored or sent values: a list has a field for each of its items, and one more."""
    body: Callable[[Mapping[str, str]], dict[str, Any]]
    """The body to send to the API, from the form's fields."""
    hint: str = ""
    keys: bool = False
    """Whether it contains keys, or determines where the content of calls is sent: it is saved only with a recent proof
    of identity."""


def group(name: str, title: str, *fields: Field, hint: str = "") -> FieldGroup:
    """A group whose fields are always the same."""
    return FieldGroup(
        name=name, title=title, hint=hint, fields=lambda _: fields, body=lambda form: values_of(fields, form)
    )


def values_of(fields: Iterable[Field], form: Mapping[str, str]) -> dict[str, Any]:
    """The values to send to the API for these fields, by the last part of their names. Empty fields are null."""
    return {each.name.rpartition(".")[2]: _value(each, _sent(each, form)) for each in fields}


def _sent(each: Field, form: Mapping[str, str]) -> str:
    """The text of a field; for several options, one line for each selected option."""
    if each.kind == "several":
        return "\n".join(option for option in each.options if form.get(f"{each.name}:{option}") == "on")
    return form.get(each.name, "")


def texts_of(fields: Iterable[Field], values: Values) -> dict[str, str]:
    """The texts of a form's fields, by their full names."""
    return {each.name: _text(each, _at(values, each.name)) for each in fields}


@dataclass(frozen=True, slots=True)
class ShownGroup:
    """A group as a page shows it: its fields with their texts and faults."""

    group: FieldGroup
    fields: Sequence[Field]
    texts: Mapping[str, str]
    at: Mapping[str, str]
    others: list[str]


def shown(group: FieldGroup, values: Values, error: InvalidInput | None = None) -> ShownGroup:
    """The group with the stored values; or with the sent ones, and the API's error about them."""
    fields = group.fields(values)
    at, others = ({}, []) if error is None else faults_at(error, fields)
    return ShownGroup(group, fields, texts_of(fields, values), at, others)


def faults_at(error: InvalidInput, fields: Sequence[Field]) -> tuple[dict[str, str], list[str]]:
    """The faults in an API error: those of each field, and those without a field here."""
    named = {each.name: each for each in fields}
    at: dict[str, str] = {}
    others: list[str] = []
    for fault in error.faults:
        path = [str(step) for step in fault.path[1:]]
        place = next((name for end in range(len(path), 0, -1) if (name := ".".join(path[:end])) in named), None)
        inner = next((each.name for each in fields if path and each.name.startswith(f"{'.'.join(path)}.")), None)
        if place is None and inner is not None:
            at[inner] = fault_text(fault)
        elif place is None:
            others.append(with_place(place_of(fault.path[1:]), fault_text(fault)))
        else:
            text = _fault_text(named[place], fault)
            at[place] = f"{at[place]}; {text}" if place in at else text
    return at, others


def _fault_text(each: Field, fault: Fault) -> str:
    """What is wrong with a field's value, or with a part of it: a line, or what has a name."""
    inner = fault.path[1 + len(each.name.split(".")) :]
    if each.kind == "several":
        return fault_text(fault)
    if each.kind == "lines" and inner and isinstance(inner[0], int):
        return with_place(f"Line {inner[0] + 1}", fault_text(fault))
    place = ", ".join(map(str, inner)) if each.kind == "pairs" else place_of(inner)
    if each.kind == "pairs" and fault.message.endswith("received null"):
        return with_place(place, "Write a colon and a value after the name")
    return with_place(place, fault_text(fault, each.options))


_is_integer = re.compile(r"-?\d{1,18}").fullmatch
_HUGE = 10**18
"""Sent for every number above it, so that the API says what the highest is."""
_is_huge = re.compile(r"-?(?:0*[1-9]\d{18,}(?:\.\d*)?|0*[1-9]\d*(?:\.\d*)?e\+?0*[1-9]\d{2,})", re.IGNORECASE).fullmatch
_is_decimal = re.compile(r"-?\d{1,18}(\.\d{1,18})?(e-?\d{1,2})?", re.IGNORECASE).fullmatch


def _value(each: Field, text: str) -> Any:
    stripped = text.strip()
    if each.kind == "switch":
        return text == "on"
    if each.kind in ("lines", "several"):
        return [line.strip() for line in text.splitlines() if line.strip()]
    if each.kind == "pairs":
        pairs = [line.partition(":") for line in text.splitlines() if line.strip()]
        return {name.strip(): value.strip() if colon else None for name, colon, value in pairs}
    if not stripped:
        return None
    if each.kind == "json":
        return json_of(stripped)
    if each.kind == "number" and _is_huge(stripped):
        return -_HUGE if stripped.startswith("-") else _HUGE
    if each.kind == "number":
        return int(stripped) if _is_integer(stripped) else float(stripped) if _is_decimal(stripped) else stripped
    return stripped


def json_of(text: str) -> Any:
    """The JSON value; if the text is not JSON, or is nested too deeply to be shown again, the text itself, about which
    the API reports what it expected."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return text
    return text if _is_deep(value) else value


def _is_deep(value: Any) -> bool:
    """Whether the value is nested more than NESTED_MAX deep: encoding it could exceed the interpreter's limit."""
    level = [value]
    for _ in range(NESTED_MAX):
        level = [inner for each in level for inner in _inside(each)]
    return bool(level)


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def words_of(text: str) -> list[str]:
    """Names, one a line or separated by spaces or commas."""
    return [word for word in re.split(r"[\s,]+", text) if word]


def _text(each: Field, value: Any) -> str:
    if each.kind == "switch":
        return "on" if value else ""
    if each.kind in ("lines", "several"):
        return "\n".join(value or ())
    if each.kind == "pairs":
        return "\n".join(name if text is None else f"{name}: {text}" for name, text in (value or {}).items())
    if each.kind == "json" and value is not None and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        return f"{value:.15f}".rstrip("0").rstrip(".")
    return "" if value is None else str(value)


def _at(values: Any, name: str) -> Any:
    """The value with this name; None if there is none."""
    for step in name.split("."):
        if isinstance(values, list):
            values = values[int(step)] if int(step) < len(values) else None
        else:
            values = values.get(step) if isinstance(values, dict) else None
    return values
