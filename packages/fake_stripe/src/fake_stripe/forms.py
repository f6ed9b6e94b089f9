"""Form encoding as Stripe's clients write it: `a[b][0][c]=v` becomes nested dictionaries and lists."""

from urllib.parse import parse_qsl

from fake_stripe.errors import Json, invalid

_DEPTH = 12
_FIELDS = 10_000


def decode(text: str) -> Json:
    """The parameters of a query or body. Values are strings; `a[]` and `a[0]` make lists. Raises StripeError."""
    root: Json = {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_FIELDS, errors="strict")
    except (ValueError, UnicodeDecodeError) as error:
        raise invalid("The parameters are not valid form encoding.") from error
    for name, value in pairs:
        _put(root, _path(name), value)
    return {name: _lists(value) for name, value in root.items()}


def _path(name: str) -> list[str]:
    head, bracket, rest = name.partition("[")
    if not bracket:
        return [name]
    keys = [head, *rest.removesuffix("]").split("][")]
    if not rest.endswith("]") or len(keys) > _DEPTH:
        raise invalid(f"Invalid parameter name: {name[:100]}", param=head)
    return keys


def _put(root: Json, keys: list[str], value: str) -> None:
    place = root
    for key in keys[:-1]:
        inner = place.setdefault(key or str(len(place)), {})
        if not isinstance(inner, dict):
            raise invalid(f"Invalid parameter: {keys[0]} is both a value and an object.", param=keys[0])
        place = inner
    last = keys[-1]
    place[last or str(len(place))] = value


def _lists(value: object) -> object:
    if not isinstance(value, dict):
        return value
    inner = {name: _lists(item) for name, item in value.items()}
    if inner and all(name.isdigit() for name in inner):
        return [inner[name] for name in sorted(inner, key=int)]
    return inner
