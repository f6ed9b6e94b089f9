"""Conditions on a request, in MongoDB's query language: `{"metadata.plan": {"$in": ["pro", "team"]}}`.

Fields are `metadata.NAME`, `headers.NAME` and `body.NAME`; in the body, dots descend into objects and arrays.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from farebox.quoting import quoted

TESTS_MAX: Final = 100
DEPTH_MAX: Final = 8
SOURCES: Final = ("metadata", "headers", "body")
SECRET_HEADERS: Final = frozenset(
    {
        "api-key",
        "authorization",
        "cf-aig-authorization",
        "cookie",
        "x-api-key",
        "x-auth-key",
        "x-auth-user-service-key",
        "x-goog-api-key",
    }
)


class _Missing:
    """The value of a field that a request does not have."""


MISSING: Final = _Missing()
Lookup: TypeAlias = Callable[[str], Any]
"""Returns the value of a field, or MISSING."""
Test: TypeAlias = Callable[[Lookup], bool]


class InvalidRouteCondition(Exception):
    """The message says what is wrong; `path` is its place within the conditions."""

    def __init__(self, message: str, *path: str | int) -> None:
        super().__init__(message)
        self.path = path


class CompiledConditions:
    """Valid conditions, compiled."""

    def __init__(self, conditions: Mapping[str, Any]) -> None:
        """Raises InvalidCondition."""
        self.fields: set[str] = set()
        """The fields that the conditions test."""
        self._left = TESTS_MAX
        self.holds: Test = self._all_of(conditions, ())

    def _all_of(self, conditions: Any, path: tuple[str | int, ...]) -> Test:
        if not isinstance(conditions, Mapping) or not conditions:
            raise InvalidRouteCondition("Expected an object with at least one condition", *path)
        if len(path) > 2 * DEPTH_MAX:
            raise InvalidRouteCondition(f"Conditions are nested more than {DEPTH_MAX} deep", *path)
        tests = [self._one(name, value, (*path, name)) for name, value in conditions.items()]
        return lambda lookup: all(test(lookup) for test in tests)

    def _one(self, name: str, value: Any, path: tuple[str | int, ...]) -> Test:
        if name in ("$and", "$or", "$nor"):
            if not isinstance(value, list) or not value:
                raise InvalidRouteCondition(f"{name} takes an array of conditions", *path)
            parts = [self._all_of(part, (*path, at)) for at, part in enumerate(value)]
            if name == "$and":
                return lambda lookup: all(part(lookup) for part in parts)
            wanted = name == "$or"
            return lambda lookup: any(part(lookup) for part in parts) is wanted
        if name == "$not":
            inner = self._all_of(value, path)
            return lambda lookup: not inner(lookup)
        return self._of_field(check_field(name, path), value, path)

    def _of_field(self, field: str, value: Any, path: tuple[str | int, ...]) -> Test:
        self.fields.add(field)
        if not isinstance(value, Mapping):
            value = {"$eq": value}
        if not value:
            raise InvalidRouteCondition("Expected an operator, such as $eq", *path)
        tests = [self._operator(field, name, operand, (*path, name)) for name, operand in value.items()]
        return lambda lookup: all(test(lookup) for test in tests)

    def _operator(self, field: str, name: str, operand: Any, path: tuple[str | int, ...]) -> Test:
        self._left -= 1
        if self._left < 0:
            raise InvalidRouteCondition(f"More than {TESTS_MAX} tests", *path)
        if name == "$not":
            inner = self._of_field(field, operand, path)
            return lambda lookup: not inner(lookup)
        if name not in _OPERATORS:
            known = ", ".join((*_OPERATORS, "$not"))
            raise InvalidRouteCondition(f"Unknown operator {quoted(name)}. Expected one of {known}", *path)
        check, compare = _OPERATORS[name]
        if not check(operand):
            raise InvalidRouteCondition(f"{name} takes {_TAKES[check]}", *path)
        if not field.startswith("headers."):
            return lambda lookup: compare(lookup(field), operand)
        if isinstance(operand, list):
            wanted = name == "$in"
            return lambda lookup: any(_equal(_as_operand(lookup(field), each), each) for each in operand) is wanted
        return lambda lookup: compare(_as_operand(lookup(field), operand), operand)


def check_field(name: str, path: tuple[str | int, ...] = ()) -> str:
    """The field's name in the form used for lookups. Raises InvalidCondition."""
    source, dot, rest = name.partition(".")
    if source not in SOURCES or not dot or not rest or len(name) > 256:
        raise InvalidRouteCondition(
            f"Unknown field {quoted(name)}. Expected metadata.NAME, headers.NAME or body.NAME, or $and, $or, $nor, "
            "$not",
            *path,
        )
    if source != "headers":
        return name
    if rest.lower() in SECRET_HEADERS:
        raise InvalidRouteCondition(f"{quoted(name)} holds a credential, and cannot be tested", *path)
    return f"headers.{rest.lower()}"


def value_at(value: Any, path: str) -> Any:
    """The value at a dotted path in decoded JSON; MISSING if there is none."""
    for step in path.split("."):
        if isinstance(value, dict):
            value = value.get(step, MISSING)
        elif (
            isinstance(value, list) and len(step) < 10 and step.isascii() and step.isdigit() and int(step) < len(value)
        ):
            value = value[int(step)]
        else:
            return MISSING
    return value


def _as_operand(value: Any, operand: Any) -> Any:
    """The value to compare: a header's text is converted to a number if it is compared with one."""
    if isinstance(value, str) and isinstance(operand, int | float) and not isinstance(operand, bool):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _is_scalar(operand: Any) -> bool:
    return operand is None or isinstance(operand, str | int | float | bool)


def _is_ordered(operand: Any) -> bool:
    return isinstance(operand, str | int | float) and not isinstance(operand, bool)


def _is_list(operand: Any) -> bool:
    return isinstance(operand, list) and len(operand) <= TESTS_MAX and all(map(_is_scalar, operand))


def _is_flag(operand: Any) -> bool:
    return isinstance(operand, bool)


def _equal(value: Any, operand: Any) -> bool:
    """Equality as in JSON: true does not equal 1, and a missing field equals null."""
    if value is MISSING or value is None:
        return operand is None
    if isinstance(value, bool) or isinstance(operand, bool):
        return value is operand
    if isinstance(value, list):  # as in MongoDB: one matching item is enough
        return any(_equal(item, operand) for item in value if not isinstance(item, list))
    return bool(value == operand)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def test(value: Any, operand: Any) -> bool:
        alike = isinstance(value, str) == isinstance(operand, str)
        return alike and _is_ordered(value) and compare(value, operand)

    return test


def _in(value: Any, operand: Any) -> bool:
    return any(_equal(value, each) for each in operand)


_OPERATORS: Final[dict[str, tuple[Callable[[Any], bool], Callable[[Any, Any], bool]]]] = {
    "$eq": (_is_scalar, _equal),
    "$ne": (_is_scalar, lambda value, operand: not _equal(value, operand)),
    "$gt": (_is_ordered, _ordered(lambda value, operand: value > operand)),
    "$gte": (_is_ordered, _ordered(lambda value, operand: value >= operand)),
    "$lt": (_is_ordered, _ordered(lambda value, operand: value < operand)),
    "$lte": (_is_ordered, _ordered(lambda value, operand: value <= operand)),
    "$in": (_is_list, _in),
    "$nin": (_is_list, lambda value, operand: not _in(value, operand)),
    "$exists": (_is_flag, lambda value, operand: (value is not MISSING) is operand),
}
"""Operator → the check of its operand, and the test."""
_TAKES: Final[dict[Callable[[Any], bool], str]] = {
    _is_scalar: "a string, number, boolean or null",
    _is_ordered: "a string or number",
    _is_list: f"an array of at most {TESTS_MAX} strings, numbers, booleans and nulls",
    _is_flag: "true or false",
}
