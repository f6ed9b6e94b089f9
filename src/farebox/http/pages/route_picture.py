"""A dynamic route as a picture: its elements in layers from top to bottom, and lines between them.

It is drawn from what was sent, valid or not, so that mistakes are visible: an output that leads nowhere ends in a gap,
and a cycle leads back.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec

from farebox.dynamic_routes.conditions import DEPTH_MAX

Element: TypeAlias = Mapping[str, Any]

WIDTH, HEIGHT = 200, 56
_ACROSS, _DOWN = 28, 48
_LANE = 8
_LANES_MAX = 300
"""Most lanes for lines; with more, lines are drawn straight, because such a picture would be unreadable and slow."""
_MARGIN = 8
_CHARACTERS = 24
_SIGNS: Final = {
    "$eq": "=",
    "$ne": "≠",
    "$gt": ">",
    "$gte": "≥",
    "$lt": "<",
    "$lte": "≤",
    "$in": "in",
    "$nin": "not in",
}
KINDS = {
    "start": "Start",
    "conditional": "Condition",
    "percentage": "Percentages",
    "rate": "Limit",
    "model": "Model",
    "end": "End",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """An element, measured from the top left."""

    kind: str
    name: str
    text: str
    full: str
    """The full text, shown on hover."""
    x: int
    y: int
    bad: bool


@dataclass(frozen=True, slots=True)
class PictureLine:
    """A line from an output of an element to another element; `path` is an SVG path."""

    path: str
    label: str
    x: int
    y: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    width: int
    height: int
    nodes: list[Node]
    lines: list[PictureLine]
    summary: str


def outputs(element: Element) -> list[tuple[str, str]]:
    """The names of an element's outputs, and the IDs they lead to."""
    found = element.get("outputs")
    pairs = found.items() if isinstance(found, Mapping) else ()
    ends = [(str(name), edge.get("elementId")) for name, edge in pairs if isinstance(edge, Mapping)]
    return [(name, to) for name, to in ends if isinstance(to, str) and to]


def what(element: Element) -> str:
    """What an element does, in a few words."""
    properties = element.get("properties")
    of = properties if isinstance(properties, Mapping) else {}
    match element.get("type"):
        case "model":
            tries = of.get("retries")
            return f"{of.get('provider', '?')}/{of.get('model', '?')}" + (_retries(tries) if tries else "")
        case "rate":
            unit = "USD" if of.get("limitType") == "cost" else "call" if of.get("limit") == 1 else "calls"
            key = f", each {of['key']}" if of.get("key") else ""
            return f"{_plain(of.get('limit'))} {unit} per {_plain(of.get('window'))} s{key}"
        case "conditional":
            return _condition(of.get("conditions"))
        case "percentage":
            return ", ".join(name for name, _ in outputs(element)) or "nothing"
        case "start":
            return "every call starts here"
        case _:
            return "the response is returned"


def picture(elements: Sequence[Element], bad: frozenset[str] = frozenset()) -> Picture:
    """Draw a route. `bad`: the IDs of elements with faults."""
    by_id = {element["id"]: element for element in elements}
    depth = _depths(by_id)
    layers = _layers(by_id, depth)
    widest = max(map(_width, layers))
    places: dict[_Item, tuple[int, int]] = {}
    for level, layer in enumerate(layers):
        x = _MARGIN + (widest - _width(layer)) // 2
        for item in layer:
            places[item] = (x, _MARGIN + level * (HEIGHT + _DOWN))
            x += (WIDTH if isinstance(item, str) else _LANE) + _ACROSS
    lines = [line for element in elements for line in _lines(element, by_id, depth, places)]
    lowest = max(_MARGIN + len(layers) * (HEIGHT + _DOWN) - _DOWN, *(line.y for line in lines), 0)
    return Picture(
        width=widest + 2 * _MARGIN,
        height=lowest + _MARGIN,
        nodes=[_node(element, *places[name], name in bad) for name, element in by_id.items()],
        lines=lines,
        summary=f"A route of {len(elements)} elements; the table says the same",
    )


_Lane: TypeAlias = tuple[str, int, int]
"""A lane, in which an output's line passes a layer: the element, the number of the output, the layer."""
_Item: TypeAlias = str | _Lane


def _width(layer: Sequence[_Item]) -> int:
    return sum((WIDTH if isinstance(item, str) else _LANE) + _ACROSS for item in layer) - _ACROSS


def _layers(by_id: Mapping[str, Element], depth: Mapping[str, int]) -> list[list[_Item]]:
    """The elements in layers, by their longest distance from the start, with a lane for each line that passes; each
    item is below what leads to it, as far as there is room."""
    lanes = 0
    layers: list[list[_Item]] = [[] for _ in range(max(depth.values()) + 1)]
    above: dict[_Item, list[tuple[_Item, float]]] = {name: [] for name in by_id}
    """What leads to an item, and how far to the right of its middle the line begins."""
    for name, element in by_id.items():
        layers[depth[name]].append(name)
        found = outputs(element)
        for number, (_, to) in enumerate(found):
            before: tuple[_Item, float] = (name, (number + 1) / (len(found) + 1) - 0.5)
            if _is_stub(by_id, depth, name, to):
                continue
            passed = range(depth[name] + 1, depth[to])
            lanes += len(passed)
            for level in passed if lanes <= _LANES_MAX else ():
                lane: _Lane = (name, number, level)
                layers[level].append(lane)
                above[lane] = [before]
                before = (lane, 0.0)
            above[to].append(before)
    rank: dict[_Item, float] = {}
    for layer in layers:
        layer.sort(key=lambda item: _mean([rank[each] + aside for each, aside in above[item] if each in rank]))
        rank |= {item: at - len(layer) / 2 for at, item in enumerate(layer)}
    return layers


def _is_stub(by_id: Mapping[str, Element], depth: Mapping[str, int], name: str, to: str) -> bool:
    """Whether an output is only labeled, because it leads nowhere, or to an end that is far away, as for most
    models."""
    return to not in by_id or (by_id[to].get("type") == "end" and depth[to] > depth[name] + 1)


def _mean(ranks: Sequence[float]) -> float:
    return sum(ranks) / len(ranks) if ranks else 0.0


def _depths(by_id: Mapping[str, Element]) -> dict[str, int]:
    depth = dict.fromkeys(by_id, 0)
    for _ in range(len(by_id) - 1):  # no path has more steps; a cycle would never end
        before = dict(depth)
        for name, element in by_id.items():
            for _, to in outputs(element):
                if to in depth:
                    depth[to] = min(max(depth[to], depth[name] + 1), len(by_id) - 1)
        if depth == before:
            break
    used = {level: at for at, level in enumerate(sorted(set(depth.values())))}
    return {name: used[level] for name, level in depth.items()}


def _node(element: Element, x: int, y: int, bad: bool) -> Node:
    kind, name, text = str(element.get("type")), element["id"], what(element)
    full = f"{KINDS.get(kind, kind)} {name}: {text}"
    return Node(kind=kind, name=_short(name), text=_short(text), full=full, x=x, y=y, bad=bad)


def _lines(
    element: Element,
    by_id: Mapping[str, Element],
    depth: Mapping[str, int],
    places: Mapping[_Item, tuple[int, int]],
) -> Iterator[PictureLine]:
    """Lines from the lower edge of an element, along their lanes, to the upper edge of the next element."""
    found, (left, top) = outputs(element), places[element["id"]]
    for number, (name, to) in enumerate(found):
        x, y = left + WIDTH * (number + 1) // (len(found) + 1), top + HEIGHT
        path = f"M{x} {y}"
        if _is_stub(by_id, depth, element["id"], to):
            where = _short(to, 8) if to in by_id else "nothing"
            yield PictureLine(f"{path}v{_DOWN // 3}", f"→ {where}", x + 4, y + 14)
            continue
        passed = [(element["id"], number, level) for level in range(depth[element["id"]] + 1, depth[to])]
        lanes = [lane for lane in passed if lane in places]
        at_x, at_y = x, y
        for lane in lanes:
            lane_x, lane_y = places[lane]
            path += _curve(at_x, at_y, lane_x, lane_y) + f"V{lane_y + HEIGHT}"
            at_x, at_y = lane_x, lane_y + HEIGHT
        path += _curve(at_x, at_y, places[to][0] + WIDTH // 2, places[to][1])
        yield PictureLine(path, _short(name, 10), x + 4, y + 14)


def _curve(x: int, y: int, to_x: int, to_y: int) -> str:
    return f"C{x} {y + _DOWN // 2} {to_x} {to_y - _DOWN // 2} {to_x} {to_y}"


def _condition(conditions: Any, depth: int = 0) -> str:
    """Conditions in words, also invalid ones: the editor shows what was sent. `depth`: how far they are nested."""
    if not isinstance(conditions, Mapping):
        return "nothing"
    if depth > DEPTH_MAX:
        return "…"
    return ", ".join(_clause(name, value, depth + 1) for name, value in conditions.items())


def _clause(name: str, value: Any, depth: int) -> str:
    if name in ("$and", "$or", "$nor") and isinstance(value, list):
        parts = (" and " if name == "$and" else " or ").join(f"({_condition(each, depth)})" for each in value)
        return f"not ({parts})" if name == "$nor" else parts
    if name == "$not":
        return f"not ({_condition(value, depth)})"
    return _test(name, value, depth)


def _test(field: str, test: Any, depth: int) -> str:
    """What is required of a field."""
    if depth > DEPTH_MAX:
        return "…"
    if isinstance(test, Mapping):
        return ", ".join(_operation(field, operator, operand, depth + 1) for operator, operand in test.items())
    return f"{field} = {_listed(test)}"


def _operation(field: str, operator: str, operand: Any, depth: int) -> str:
    match operator:
        case "$exists":
            return f"{field} {'exists' if operand else 'does not exist'}"
        case "$not":
            return f"not ({_test(field, operand, depth)})"
        case _:
            return f"{field} {_SIGNS.get(operator, operator)} {_listed(operand)}"


def _listed(value: Any) -> str:
    return ", ".join(map(_value, value)) if isinstance(value, list) else _value(value)


def _value(value: Any) -> str:
    """As in JSON, but without quotation marks."""
    if isinstance(value, str):
        return value
    return "…" if isinstance(value, Mapping | list) else msgspec.json.encode(value).decode()


def _retries(tries: Any) -> str:
    return f", {_plain(tries)} {'retry' if tries == 1 else 'retries'}"


def _plain(number: Any) -> str:
    return f"{number:,g}" if isinstance(number, int | float) else str(number)


def _short(text: str, most: int = _CHARACTERS) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
