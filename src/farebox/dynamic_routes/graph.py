"""A route as a graph: whether it is valid, and how a request moves through it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from itertools import zip_longest
from typing import Annotated, Final, TypeAlias

import msgspec

from farebox.dynamic_routes.conditions import CompiledConditions, InvalidRouteCondition, Lookup, check_field
from farebox.dynamic_routes.elements import (
    ELEMENTS_MAX,
    Choice,
    Conditional,
    Edge,
    Element,
    End,
    Limit,
    LimitedOutputs,
    Model,
    Percentage,
    Rate,
    Start,
    StartOutputs,
    edges,
)
from farebox.quoting import quoted
from farebox.weighted_choice import weighted_index

WEIGHT_MAX: Final = 1_000
PERCENTAGES_MAX: Final = 5
ALIAS_TARGETS_MAX: Final = 10
COST_MAX_USD: Final = 1_000_000_000
_percent = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)%").fullmatch
Path: TypeAlias = tuple[str | int, ...]


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model alias may stand for."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    """`provider/model`."""
    weight: Annotated[int, msgspec.Meta(ge=0, le=WEIGHT_MAX)] = 0
    """Its share of the requests, relative to the weights of the other targets; 0: it is tried only if others fail."""


@dataclass(frozen=True, slots=True)
class RouteFault:
    """One thing that is wrong with a route; `path` begins at its elements."""

    path: Path
    message: str


class InvalidRoute(Exception):
    """The elements are not a valid graph; `faults` has at least one item."""

    def __init__(self, faults: Sequence[RouteFault]) -> None:
        super().__init__(faults[0].message)
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class Stop:
    """The route ended without calling a model."""

    element_id: str
    opens_at: int | None = None
    """If the cause is a limit: when it admits requests again, in Unix milliseconds."""


@dataclass(frozen=True, slots=True)
class Share:
    """One output of a percentage: chosen if the random number is below `upto`."""

    upto: float
    element_id: str


CountAgainst: TypeAlias = Callable[[Rate, Lookup], int | None]
"""Counts a request against a limit. Returns None, or if the limit is reached, when it admits requests again (Unix
milliseconds)."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A valid route."""

    elements: dict[str, Element]
    first: str
    """The element after the start."""
    conditions: dict[str, CompiledConditions]
    shares: dict[str, tuple[Share, ...]]
    body_fields: frozenset[str] = field(default=frozenset())
    """The fields of request bodies that the route reads."""
    weights: tuple[int, ...] = ()
    """For a model alias that balances load: its targets' weights, with 0 for a target without one. Empty if no target
    has one."""

    def next_model(
        self, element_id: str, lookup: Lookup, chance: Callable[[], float], count: CountAgainst
    ) -> Model | Stop:
        """The first model that a request reaches, starting at this element, or the end of the route."""
        opens_at: int | None = None
        while True:
            element = self.elements[element_id]
            after: str | None
            if isinstance(element, Model):
                return element
            if isinstance(element, Conditional):
                found = self.conditions[element.id].holds(lookup)
                after = (element.outputs.true if found else element.outputs.false).element_id
            elif isinstance(element, Percentage):
                after = _chosen(self.shares[element.id], chance())
            elif isinstance(element, Rate):
                opens_at = count(element, lookup)
                after = element.outputs.success.element_id if opens_at is None else _leads_to(element.outputs.fallback)
            else:
                after = None
            if after is None:
                return Stop(element_id, opens_at)
            element_id = after


def graph_of(elements: Sequence[Element]) -> Graph:
    """The graph of these elements. Raises InvalidRoute with everything that is wrong with them."""
    by_id: dict[str, Element] = {}
    faults: list[RouteFault] = []
    if not 1 <= len(elements) <= ELEMENTS_MAX:
        raise InvalidRoute([RouteFault((), f"A route has 1 to {ELEMENTS_MAX} elements")])
    for at, element in enumerate(elements):
        if element.id in by_id:
            faults.append(RouteFault((at, "id"), f"Two elements have the id {quoted(element.id)}"))
        by_id[element.id] = element
    starts = [at for at, element in enumerate(elements) if isinstance(element, Start)]
    if len(starts) != 1:
        at_fault = (starts[1], "type") if starts else ()
        faults.append(RouteFault(at_fault, "A route has exactly one element of the type “start”"))
    for at, element in enumerate(elements):
        faults += [RouteFault((at, *fault.path), fault.message) for fault in _edge_faults(element, by_id)]
    if faults:
        raise InvalidRoute(faults)
    start = elements[starts[0]]
    assert isinstance(start, Start)
    faults += _shape_faults(elements, by_id, start)
    conditions, shares, fields = _compiled(elements, faults)
    if faults:
        raise InvalidRoute(faults)
    bodies = frozenset(name.removeprefix("body.") for name in fields if name.startswith("body."))
    return Graph(by_id, start.outputs.next.element_id, conditions, shares, bodies)


def read_targets(text: str) -> list[Target]:
    """The targets of a model alias from their stored form, in which one without a weight is a string."""
    found = msgspec.json.decode(text, type=list[str | Target])
    return [target if isinstance(target, Target) else Target(target) for target in found]


def graph_of_targets(targets: Sequence[Target]) -> Graph:
    """The route of a model alias: each target is tried if the one before it fails."""
    end = End(id="end")
    elements: list[Element] = [Start(id="start", outputs=StartOutputs(Edge("0"))), end]
    for at, target in enumerate(targets):
        provider, _, model = target.model.partition("/")
        fallback = Edge(str(at + 1)) if at + 1 < len(targets) else None
        outputs = LimitedOutputs(Edge(end.id), fallback)
        elements.append(Model(id=str(at), properties=Choice(provider, model), outputs=outputs))
    weights = tuple(target.weight for target in targets)
    return replace(graph_of(elements), weights=weights if any(weights) else ())


def balanced_graph(graph: Graph, chance: Callable[[], float]) -> Graph:
    """The route of a model alias for one request. The first target is drawn at random by weight, and so is
    each next one if that fails; targets without a weight follow in their order."""
    if not graph.weights:
        return graph
    left, order = list(graph.weights), list[str]()
    while any(left):
        at = weighted_index(left, chance())
        order.append(str(at))
        left[at] = 0
    order += [str(at) for at, weight in enumerate(graph.weights) if not weight]
    elements: dict[str, Element] = {}
    for element_id, after in zip_longest(order, order[1:]):
        model = graph.elements[element_id]
        assert isinstance(model, Model), "a model alias has only models"
        outputs = LimitedOutputs(model.outputs.success, None if after is None else Edge(after))
        elements[element_id] = msgspec.structs.replace(model, outputs=outputs)
    return replace(graph, elements=elements, first=order[0])


def targets_of(graph: Graph) -> list[str]:
    """The targets of a model alias, in their order."""
    models = (graph.elements.get(str(at)) for at in range(ALIAS_TARGETS_MAX))
    return [
        f"{element.properties.provider}/{element.properties.model}" for element in models if isinstance(element, Model)
    ]


def is_draft(elements: Sequence[Element]) -> bool:
    """Whether this is an empty route: a start that leads nowhere."""
    return len(elements) == 1 and isinstance(elements[0], Start)


def _edge_faults(element: Element, by_id: dict[str, Element]) -> list[RouteFault]:
    faults = []
    for name, edge in edges(element):
        path = ("outputs", name, "elementId")
        to = by_id.get(edge.element_id)
        if isinstance(element, End):
            faults.append(RouteFault(("outputs", name), "The end of a route has no outputs"))
        elif to is None:
            faults.append(RouteFault(path, f"There is no element with the id {quoted(edge.element_id)}"))
        elif isinstance(to, Start):
            faults.append(RouteFault(path, "No output may lead back to the start"))
        elif isinstance(element, Model) and name == "success" and not isinstance(to, End):
            faults.append(
                RouteFault(path, "A response that has begun is final: “success” must lead to an element “end”")
            )
    return faults


def _shape_faults(elements: Sequence[Element], by_id: dict[str, Element], start: Start) -> list[RouteFault]:
    """What is wrong with the graph as a whole."""
    place = {element.id: at for at, element in enumerate(elements)}
    leads = {element.id: [edge.element_id for _, edge in edges(element)] for element in elements}
    try:
        TopologicalSorter(leads).prepare()
    except CycleError as error:
        circle = error.args[1][::-1]
        return [RouteFault((place[circle[0]], "outputs"), f"The route goes in a circle: {' → '.join(circle)}")]
    reached, ahead = set[str](), [start.id]
    while ahead:
        element_id = ahead.pop()
        if element_id not in reached:
            reached.add(element_id)
            ahead += leads[element_id]
    faults = [
        RouteFault((place[element.id], "id"), f"No path leads from the start to the element {quoted(element.id)}")
        for element in elements
        if element.id not in reached
    ]
    if not any(isinstance(by_id[element_id], Model) for element_id in reached):
        faults.append(RouteFault((), "No path leads from the start to an element of the type “model”"))
    return faults


def _compiled(
    elements: Sequence[Element], faults: list[RouteFault]
) -> tuple[dict[str, CompiledConditions], dict[str, tuple[Share, ...]], set[str]]:
    """What is computed once for all requests; errors are added to `faults`."""
    conditions: dict[str, CompiledConditions] = {}
    shares: dict[str, tuple[Share, ...]] = {}
    fields: set[str] = set()
    for at, element in enumerate(elements):
        if isinstance(element, Conditional):
            try:
                compiled = conditions[element.id] = CompiledConditions(element.properties.conditions)
                fields |= compiled.fields
            except InvalidRouteCondition as error:
                faults.append(RouteFault((at, "properties", "conditions", *error.path), str(error)))
        elif isinstance(element, Percentage):
            shares[element.id] = _shares(element, at, faults)
        elif isinstance(element, Rate):
            faults += _limit_faults(element.properties, at)
            key = key_field(element.properties)
            fields |= {key} if key else set()
    return conditions, shares, fields


def key_field(limit: Limit) -> str | None:
    """The field whose values are counted separately; None if all requests are counted together."""
    try:
        return check_field(limit.key)
    except InvalidRouteCondition:
        return None


def _limit_faults(limit: Limit, at: int) -> list[RouteFault]:
    faults = []
    if limit.window <= 0:
        faults.append(RouteFault((at, "properties", "window"), "Required: the length of the window in seconds"))
    if limit.limit_type == "cost" and limit.limit > COST_MAX_USD:
        message = f"Number must be less than or equal to {COST_MAX_USD}"
        faults.append(RouteFault((at, "properties", "limit"), message))
    if limit.limit_type == "count" and limit.limit < 1:
        faults.append(RouteFault((at, "properties", "limit"), "Number must be greater than or equal to 1"))
    if "." in limit.key and key_field(limit) is None:
        message = f"Unknown field {quoted(limit.key)}. Expected metadata.NAME, headers.NAME or body.NAME"
        faults.append(RouteFault((at, "properties", "key"), message))
    return faults


def _shares(element: Percentage, at: int, faults: list[RouteFault]) -> tuple[Share, ...]:
    found: list[Share] = []
    total = 0.0
    for name, edge in element.outputs.items():
        if name == "else":
            continue
        percent = _percent(name)
        if percent is None:
            faults.append(RouteFault((at, "outputs", name), "Name each output like “10%”, and the rest “else”"))
            continue
        total += float(percent.group(1))
        found.append(Share(total / 100, edge.element_id))
    rest = element.outputs.get("else")
    if not 1 <= len(found) <= PERCENTAGES_MAX:
        faults.append(RouteFault((at, "outputs"), f"A percentage has 1 to {PERCENTAGES_MAX} outputs, and “else”"))
    elif total > 100 + 1e-9:
        faults.append(RouteFault((at, "outputs"), f"The percentages add up to {total:g}%, which is more than 100%"))
    elif rest is None and total < 100 - 1e-9:
        faults.append(RouteFault((at, "outputs"), f"The percentages add up to {total:g}%: add “else” for the rest"))
    last = found[-1].element_id if found and rest is None else rest.element_id if rest else ""
    return (*found, Share(2.0, last))


def _chosen(shares: Sequence[Share], chance: float) -> str:
    return next(share.element_id for share in shares if chance < share.upto)


def _leads_to(edge: Edge | None) -> str | None:
    return None if edge is None else edge.element_id
