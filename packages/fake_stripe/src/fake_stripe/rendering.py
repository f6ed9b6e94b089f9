"""Objects as the API shows them: without hidden fields, and with IDs replaced by objects where `expand` requests it."""

from collections.abc import Callable
from typing import Any, TypeAlias

from fake_stripe.errors import Json, StripeError, invalid
from fake_stripe.store import Store

Include: TypeAlias = Callable[[Store, Json], Any]

# Fields that an object has only on request, by kind and field.
_INCLUDED: dict[tuple[str, str], Include] = {}


def includable(kind: str, field: str) -> Callable[[Include], Include]:
    """Declares a field that is shown only if `expand` names it."""

    def declare(make: Include) -> Include:
        _INCLUDED[kind, field] = make
        return make

    return declare


def snapshot(store: Store, resource: Json) -> Json:
    """A copy to show, nothing expanded."""
    shown: Json = _shown(resource)
    return shown


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shown(item) for name, item in value.items() if not name.startswith("_")}
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return value


def expanded(store: Store, resource: Json, paths: list[str]) -> Json:
    """A copy to show, with the objects that the paths name. Raises StripeError if something cannot be expanded."""
    shown = snapshot(store, resource)
    for path in sorted(paths):  # so that an object is there before its parts
        if path.count(".") > 5:
            message = "You cannot expand more than 4 levels of a property."
            raise invalid(message, param="expand")
        _expand(store, shown, path.split("."), path)
    return shown


def _expand(store: Store, place: Any, keys: list[str], path: str) -> None:
    if isinstance(place, list):
        for item in place:
            _expand(store, item, keys, path)
        return
    if not isinstance(place, dict):
        return
    key, *rest = keys
    include = _INCLUDED.get((str(place.get("object")), key))
    if include is not None and key not in place:
        place[key] = _shown(include(store, place))
    elif key not in place:
        raise _not_expandable(path)
    place[key] = _object_of(store, place[key], path)
    if rest:
        _expand(store, place[key], rest, path)


def _object_of(store: Store, value: Any, path: str) -> Any:
    if isinstance(value, list):
        return [_object_of(store, item, path) for item in value]
    if not isinstance(value, str):
        return value
    resource = store.any(value)
    if resource is None:
        raise _not_expandable(path)
    return snapshot(store, resource)


def _not_expandable(path: str) -> StripeError:
    return invalid(f"This property cannot be expanded ({path}).", param="expand")


def list_of(items: list[Json], url: str, *, has_more: bool = False) -> Json:
    """The API's list object."""
    return {"object": "list", "data": items, "has_more": has_more, "url": url}
