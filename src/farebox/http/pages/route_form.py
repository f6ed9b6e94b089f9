"""Converts the elements of a dynamic route to form fields, named like the API's values, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farebox.dynamic_routes.elements import ELEMENTS_MAX
from farebox.http.pages.fault_texts import fault_text, place_of, with_place
from farebox.http.pages.fields import Field, ShownGroup, group, shown, values_of
from farebox.http.pages.route_picture import KINDS, Element, outputs
from farebox.http.validation import Fault, InvalidInput

FIELDS_MAX = 40
"""Most elements of a route that is shown as fields; a larger one is edited only as JSON."""


def _leads(**names: str) -> dict[str, Any]:
    return {name: {"elementId": to} for name, to in names.items()}


def _model(name: str, model: str, **leads: str) -> dict[str, Any]:
    provider, _, rest = model.partition("/")
    properties = {"provider": provider, "model": rest, "timeout": 0, "retries": 0}
    return {"type": "model", "id": name, "properties": properties, "outputs": _leads(success="end", **leads)}


def _start(to: str) -> dict[str, Any]:
    return {"type": "start", "id": "start", "outputs": _leads(next=to)}


_END: dict[str, Any] = {"type": "end", "id": "end", "outputs": {}}


def examples(first: str, second: str) -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """Examples of routes with these models: name → elements."""
    limit = {"key": "metadata.user", "limit": 100, "limitType": "count", "window": 3600, "technique": "sliding"}
    two = [_model("first", first), _model("second", second), _END]
    return {
        "fallback": (
            "A model with a fallback",
            [_start("first"), _model("first", first, fallback="second"), *two[1:]],
        ),
        "shares": (
            "Split by percentage",
            [
                _start("shares"),
                {"type": "percentage", "id": "shares",
                 "outputs": {"10%": {"elementId": "second"}, "else": {"elementId": "first"}}},
                *two,
            ],
        ),
        "condition": (
            "A condition",
            [
                _start("plan"),
                {"type": "conditional", "id": "plan", "properties": {"conditions": {"metadata.plan": "paid"}},
                 "outputs": {"true": {"elementId": "first"}, "false": {"elementId": "second"}}},
                *two,
            ],
        ),
        "limit": (
            "A limit for each user",
            [
                _start("limit"),
                {"type": "rate", "id": "limit", "properties": limit,
                 "outputs": _leads(success="first", fallback="second")},
                *two,
            ],
        ),
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class ShownElement:
    """One element of a form."""

    number: int
    kind: str
    what: str
    name: str
    given: ShownGroup


def is_plain(elements: Any) -> bool:
    """Whether these can be shown as fields, and drawn: objects with an ID and a known type."""
    return (
        isinstance(elements, list)
        and len(elements) <= ELEMENTS_MAX
        and all(
            isinstance(each, dict) and isinstance(each.get("id"), str) and each.get("type") in KINDS
            for each in elements
        )
        and len({each["id"] for each in elements}) == len(elements)
    )


def shown_elements(elements: Sequence[Element], error: InvalidInput | None) -> list[ShownElement]:
    """Each element with its fields and faults."""
    names = [element["id"] for element in elements]
    values = {"elements": [_with_pairs(element) for element in elements]}
    found = []
    for number, element in enumerate(elements):
        fields = _fields(number, element, names)
        own = [fault for fault in error.faults if fault.path[1:3] == ("elements", number)] if error else []
        given = shown(group(str(number), "", *fields), values, InvalidInput(own) if own else None)
        found.append(ShownElement(number, element["type"], KINDS[element["type"]], element["id"], given))
    return found


def _with_pairs(element: Element) -> Element:
    """The element, with shares as pairs: their names, and where they lead."""
    return {**element, "outputs": dict(outputs(element))} if element["type"] == "percentage" else element


def other_faults(elements: Any, error: InvalidInput | None) -> list[str]:
    """Faults of the route as a whole, or of elements that are not shown; each names its element."""
    if error is None:
        return []
    plain = is_plain(elements) and len(elements) <= FIELDS_MAX
    return [
        _named(elements, fault)
        for fault in error.faults
        if not plain or fault.path[1:2] != ("elements",) or len(fault.path) < 3
    ]


def _named(elements: Any, fault: Fault) -> str:
    path = fault.path[1:]
    if len(path) < 2 or path[0] != "elements" or not isinstance(path[1], int):
        return fault_text(fault) if path == ("elements",) else with_place(place_of(path), fault_text(fault))
    element = elements[path[1]] if isinstance(elements, list) and path[1] < len(elements) else None
    name = element.get("id") if isinstance(element, Mapping) else None
    rest = ".".join(map(str, path[2:]))
    place = f"Element {path[1] + 1}{f' “{name}”' if name else ''}{f', {rest}' if rest else ''}"
    return with_place(place, fault_text(fault))


def bad_ones(elements: Sequence[Element], error: InvalidInput | None) -> frozenset[str]:
    """The IDs of elements with faults."""
    paths = [fault.path for fault in error.faults] if error else []
    places = {path[2] for path in paths if len(path) > 2 and path[1] == "elements"}
    return frozenset(element["id"] for number, element in enumerate(elements) if number in places)


def _fields(number: int, element: Element, names: Sequence[str]) -> list[Field]:
    place = f"elements.{number}"
    options = {name: name for name in names if name != element["id"]}

    def to(output: str, label: str, *, optional: bool = False) -> Field:
        leads = dict(outputs(element)).get(output)
        known = options if leads is None or leads in options else options | {leads: leads}
        return Field(
            name=f"{place}.outputs.{output}.elementId",
            label=label,
            kind="choice",
            options=({"": "nothing (the route ends)"} | known) if optional or leads is None else known,
        )

    def of(name: str, label: str, **more: Any) -> Field:
        return Field(name=f"{place}.properties.{name}", label=label, **more)

    return [Field(name=f"{place}.id", label="ID"), *_OWN[element["type"]](place, of, to)]


_OWN: dict[str, Any] = {
    "start": lambda _, of, to: [to("next", "Then")],
    "end": lambda *_: [],
    "conditional": lambda _, of, to: [
        of("conditions", "Conditions", kind="json", wide=True,
           hint='JSON, such as {"metadata.plan": {"$in": ["paid", "team"]}}; also headers.NAME and body.NAME.'),
        to("true", "If so"),
        to("false", "If not"),
    ],
    "percentage": lambda place, of, to: [
        Field(name=f"{place}.outputs", label="Percentages", kind="pairs", wide=True,
              hint="One per line, such as 10%: ID-of-an-element. For the rest, else: ID."),
    ],
    "rate": lambda _, of, to: [
        of("limit", "Limit", kind="number"),
        of("limitType", "Unit", kind="choice", options={"count": "calls", "cost": "US dollars"}),
        of("window", "Per how many seconds", kind="number"),
        of("technique", "How it is counted", kind="choice",
           options={"fixed": "by the clock", "sliding": "over a sliding window"}),
        of("key", "Separate limit for each", hint="metadata.NAME, headers.NAME or body.NAME. Leave empty for one."),
        to("success", "Within the limit"),
        to("fallback", "Beyond the limit", optional=True),
    ],
    "model": lambda _, of, to: [
        of("provider", "Provider"),
        of("model", "Model"),
        of("timeout", "Timeout in milliseconds", kind="number", hint="0 for the default of the call or the operator."),
        of("retries", "Retries", kind="number", hint="Up to 5."),
        to("success", "Then"),
        to("fallback", "If it fails", optional=True),
    ],
}  # fmt: skip


# --- from the form ----------------------------------------------------------------------------------------------------


def elements_of(form: Mapping[str, str]) -> list[dict[str, Any]]:
    """The elements that a form describes."""
    found: list[dict[str, Any]] = []
    while (kind := form.get(f"type.{len(found)}", "")) in _OWN:
        found.append(_element(form, len(found), kind))
    return found


def _element(form: Mapping[str, str], number: int, kind: str) -> dict[str, Any]:
    place = f"elements.{number}"
    element: dict[str, Any] = {"type": kind, "id": "", "outputs": {}}
    for field in _fields(number, element, []):
        (value,) = values_of([field], form).values()
        path = field.name.removeprefix(f"{place}.").split(".")
        if path[0] == "id":
            element["id"] = value or ""
        elif path == ["outputs"]:
            element["outputs"] = {name: {"elementId": to} for name, to in value.items()}
        elif path[0] == "outputs":
            if value is not None:
                element["outputs"][path[1]] = {"elementId": value}
        else:
            element.setdefault("properties", {})[path[1]] = _given(path[1], value)
    return element


def _given(name: str, value: Any) -> Any:
    """The value for a field, which may be empty."""
    if value is None:
        return 0 if name in ("timeout", "retries") else ""
    return value


def with_one_more(elements: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The elements and another one of this kind, which nothing leads to yet."""
    names = {element["id"] for element in elements}
    name = next(name for number in range(1, ELEMENTS_MAX + 2) if (name := f"{kind}-{number}") not in names)
    end = next((element["id"] for element in elements if element["type"] == "end"), "")
    made: dict[str, Any] = {"type": kind, "id": name, "outputs": {}}
    if kind == "model":
        made = _model(name, "") | {"outputs": _leads(success=end)}
    elif kind == "rate":
        properties = {"key": "", "limit": 100, "limitType": "count", "window": 3600, "technique": "sliding"}
        made["properties"] = properties
    elif kind == "conditional":
        made["properties"] = {"conditions": {"metadata.plan": "paid"}}
    return [*elements, made]
