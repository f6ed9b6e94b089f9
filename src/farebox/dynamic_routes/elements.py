"""The elements of a dynamic route, as they are sent and stored: Cloudflare's, in the form of its SDKs.

The form of Cloudflare's older documentation (`rate_limit`, `interval`, `condition`) is accepted too, and is stored in
the newer form.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from farebox.calendar import DAY_SECONDS, HOUR_MS

ELEMENTS_MAX = 100
RETRIES_MAX = 5
TIMEOUT_MAX_MS = HOUR_MS
WINDOW_MAX_SECONDS = 366 * DAY_SECONDS

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class Edge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an output leads."""

    element_id: str = msgspec.field(name="elementId")


class _Element(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    id: Id


class StartOutputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    next: Edge


class Start(_Element, frozen=True, kw_only=True, tag="start"):
    """Where every request enters."""

    outputs: StartOutputs


class ConditionalOutputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    true: Edge
    false: Edge


class Conditions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    conditions: Mapping[str, Any] = {}
    condition: Mapping[str, Any] = {}
    """The older name of `conditions`."""


class Conditional(_Element, frozen=True, kw_only=True, tag="conditional"):
    """Sends a request one way or the other, depending on its conditions."""

    properties: Conditions
    outputs: ConditionalOutputs


class Percentage(_Element, frozen=True, kw_only=True, tag="percentage"):
    """Sends the stated shares of all requests, chosen by chance, to each output (`10%`), and the rest to `else`."""

    outputs: Mapping[str, Edge]


class LimitedOutputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    success: Edge
    fallback: Edge | None = None
    """None: the route ends there."""


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A number of requests, or a cost in US dollars, per window in seconds, for each value of the field `key`."""

    key: Annotated[str, msgspec.Meta(max_length=256)]
    limit: Annotated[float, msgspec.Meta(gt=0, le=1e12)]
    limit_type: Literal["count", "cost"] = msgspec.field(name="limitType")
    window: Annotated[int, msgspec.Meta(ge=0, le=WINDOW_MAX_SECONDS)] = 0
    interval: Annotated[int, msgspec.Meta(ge=0, le=WINDOW_MAX_SECONDS)] = 0
    """The older name of `window`."""
    technique: Literal["fixed", "sliding"] = "fixed"


class Rate(_Element, frozen=True, kw_only=True, tag="rate"):
    """Lets requests through to `success` up to a limit; sends the others to `fallback`."""

    properties: Limit
    outputs: LimitedOutputs


class OlderRate(_Element, frozen=True, kw_only=True, tag="rate_limit"):
    """The older name of `rate`."""

    properties: Limit
    outputs: LimitedOutputs


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model that is called, with its timeout and retries."""

    provider: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    timeout: Annotated[int, msgspec.Meta(ge=0, le=TIMEOUT_MAX_MS)] = 0
    """Milliseconds until the response begins; 0: the request's or the operator's timeout applies."""
    retries: Annotated[int, msgspec.Meta(ge=0, le=RETRIES_MAX)] = 0
    """Further attempts at the same provider."""


class Model(_Element, frozen=True, kw_only=True, tag="model"):
    """Calls a model. Once its response begins, the route is decided; if the call fails, `fallback` comes next."""

    properties: Choice
    outputs: LimitedOutputs


class End(_Element, frozen=True, kw_only=True, tag="end"):
    """Where the route ends."""

    outputs: Mapping[str, Edge] = {}


Element: TypeAlias = Start | Conditional | Percentage | Rate | OlderRate | Model | End


def in_newer_form(element: Element) -> Element:
    """The same element with the names that the SDKs use."""
    if isinstance(element, Conditional):
        found = element.properties
        if found.condition and not found.conditions:
            return msgspec.structs.replace(element, properties=Conditions(found.condition))
        return element
    if isinstance(element, Rate | OlderRate):
        limit = element.properties
        if limit.interval and not limit.window:
            limit = msgspec.structs.replace(limit, window=limit.interval, interval=0)
        return Rate(id=element.id, properties=limit, outputs=element.outputs)
    return element


def edges(element: Element) -> list[tuple[str, Edge]]:
    """The outputs of an element, by name."""
    outputs = element.outputs
    if isinstance(outputs, Mapping):
        return list(outputs.items())
    named = ((field, getattr(outputs, field)) for field in outputs.__struct_fields__)
    return [(name, edge) for name, edge in named if edge is not None]
