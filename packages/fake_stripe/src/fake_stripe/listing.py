"""Lists of objects: filters, creation times and pages."""

from collections.abc import Callable, Iterable

from fake_stripe.errors import Json, StripeError, invalid
from fake_stripe.params import Params
from fake_stripe.rendering import list_of

_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "gt": lambda value, bound: value > bound,
    "gte": lambda value, bound: value >= bound,
    "lt": lambda value, bound: value < bound,
    "lte": lambda value, bound: value <= bound,
}


def page(resources: Iterable[Json], params: Params, url: str, *names: str) -> Json:
    """One page of `resources`, newest first. `names`: parameters that must equal the object's field of that name."""
    found = [resource for resource in resources if _matches(resource, params, names)]
    limit = params.integer("limit") if params.has("limit") else 10
    if limit is None or not 1 <= limit <= 100:
        raise invalid("This value must be between 1 and 100.", param="limit", code="parameter_invalid_integer")
    after, before = params.text("starting_after"), params.text("ending_before")
    if after and before:
        raise invalid("You can only pass one of these parameters: ending_before, starting_after.")
    if before:
        stop = _place(found, before, "ending_before")
        start = max(0, stop - limit)
        return list_of(found[start:stop], url, has_more=start > 0)
    start = _place(found, after, "starting_after") + 1 if after else 0
    return list_of(found[start : start + limit], url, has_more=len(found) > start + limit)


def _place(found: list[Json], object_id: str, param: str) -> int:
    for place, resource in enumerate(found):
        if resource["id"] == object_id:
            return place
    raise _unknown_cursor(object_id, param)


def _unknown_cursor(object_id: str, param: str) -> StripeError:
    return invalid(f"No such object: '{object_id}'", param=param, code="resource_missing")


def _matches(resource: Json, params: Params, names: tuple[str, ...]) -> bool:
    for name in names:
        wanted = params.text(name)
        if wanted is not None and _plain(resource.get(name)) != wanted:
            return False
    return "created" not in params.values or within(resource.get("created", resource.get("date", 0)), params, "created")


def _plain(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def within(moment: int | None, params: Params, name: str) -> bool:
    """Whether a time matches the parameter: one moment, or `gt`, `gte`, `lt`, `lte`."""
    if moment is None:
        return False
    if not isinstance(params.values.get(name), dict):
        return params.integer(name) in (None, moment)
    bounds = params.sub(name)
    for how in bounds.values:
        bound = bounds.integer(how)
        if how not in _COMPARE:
            raise invalid(f"Received unknown parameter: {bounds.named(how)}", param=bounds.named(how))
        if bound is not None and not _COMPARE[how](moment, bound):
            return False
    return True
