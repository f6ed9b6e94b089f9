"""Conditions in CEL, the Common Expression Language: compiled once, and evaluated within a bounded time.

The library is Google's own (cel-cpp). Parts of the language whose evaluation time the length of the expression does not
bound are left out: the macros that iterate over lists (`all`, `exists`, `map`, `filter`), and `matches`, with which
thirty characters keep a linear-time engine busy for 40 milliseconds. The rest takes time in proportion to the
expression and to the values it compares. An expression is checked when it is compiled: unknown names and mismatched
types are errors then, not when a call arrives.
"""

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any, Final

CF_USER_ID: Final = "cf.user.id"
CF_USER_EMAIL: Final = "cf.user.email"
TOKEN_ID: Final = "token.id"  # noqa: S105 - a name in conditions
TOKEN_NAME: Final = "token.name"  # noqa: S105
USER: Final = "user"
METADATA: Final = "metadata"
FIELDS: Final = (CF_USER_ID, CF_USER_EMAIL, TOKEN_ID, TOKEN_NAME, USER)
"""What conditions can name besides `metadata`; each is text."""
VALUE_MAX: Final = 256
"""Maximum length, in characters, of a value that a condition reads. A call with a longer value is refused, not treated
as if it had none."""
_COMPILED_MAX: Final = 1024

_LANGUAGE: Final = """
name: policies
stdlib:
  exclude_macros: [all, exists, exists_one, map, filter]
  exclude_functions:
  - name: matches
  - name: getFullYear
  - name: getMonth
  - name: getDate
  - name: getDayOfMonth
  - name: getDayOfWeek
  - name: getDayOfYear
  - name: getHours
  - name: getMinutes
  - name: getSeconds
  - name: getMilliseconds
"""
"""The functions that read parts of a time are excluded because time zones are read from files."""


class InvalidPolicyCondition(Exception):
    """The expression cannot be compiled; the exception's text says why."""


class UnresolvedField(Exception):
    """The condition names a field that the call does not have."""


class Unevaluable(Exception):
    """The condition has no result: it compares values that cannot be compared, or divides by zero."""


class Condition:
    """A compiled expression."""

    __slots__ = ("_broken", "_program", "text")

    def __init__(self, text: str, program: Any, broken: str = "") -> None:
        """`program`: None if the condition is always true. `broken`: why it cannot be evaluated; empty if it can."""
        self.text = text
        self._program = program
        self._broken = broken

    @property
    def is_constant(self) -> bool:
        """Whether it is always true, so that there is nothing to evaluate."""
        return self._program is None and not self._broken

    def holds(self, bound: Any) -> bool:
        """Whether it is true for values prepared by `bind`. Raises Unresolved, Unevaluable."""
        if self._broken:
            raise Unevaluable(self._broken)
        if self._program is None:
            return True
        try:
            found = self._program.eval(bound)
            answer, kind = found.value(), found.type().name()
        except (RuntimeError, TypeError, ValueError) as error:  # raised by the library
            raise Unevaluable(str(error)) from error
        if isinstance(answer, bool):
            return answer
        if kind == "ERROR" and _is_missing(str(answer)):
            raise UnresolvedField(str(answer))
        raise Unevaluable(str(answer) if kind == "ERROR" else f"it is of type {kind.lower()} and not a boolean")


def _is_missing(text: str) -> bool:
    return text.startswith(("NOT_FOUND: Key not found in map", "UNKNOWN: No value with name"))


@lru_cache(maxsize=_COMPILED_MAX)
def compile_condition(text: str) -> Condition:
    """Compile an expression. Raises InvalidCondition. Takes up to two milliseconds, unless the expression is cached."""
    if text.strip() == "true":
        return Condition(text, None)
    try:
        program = _environment().compile(text)
    except (RuntimeError, TypeError, ValueError) as error:  # a lone surrogate is a TypeError
        raise InvalidPolicyCondition(_shown(str(error))) from error
    kind = program.return_type().name()
    if kind not in ("BOOL", "DYN"):
        raise InvalidPolicyCondition(f"it is of type {kind.lower()} and not a boolean")
    return Condition(text, program)


def _shown(text: str) -> str:
    """The first of the library's error messages, without the library's name for the input."""
    first = text.removeprefix("INVALID_ARGUMENT: ").split("\n")[0].removeprefix("ERROR: ").removeprefix("<input>:")
    return first.removesuffix(" [INVALID_ARGUMENT]")[:300]


@cache
def _environment() -> Any:
    from cel_expr_python import cel  # takes 25 ms and 7 MB, needed only with policies

    kinds = dict.fromkeys(FIELDS, cel.Type.STRING) | {METADATA: cel.Type.Map(cel.Type.STRING, cel.Type.DYN)}
    return cel.NewEnv(config=cel.NewEnvConfigFromYaml(_LANGUAGE), variables=kinds)


def bind(fields: Mapping[str, str], metadata: Mapping[str, str | int | float | bool]) -> Any:
    """Prepare a call's values for all of its conditions. Raises Unevaluable if one of them is too long or too large."""
    if any(len(value) > VALUE_MAX for value in fields.values()):
        raise Unevaluable(f"a value has more than {VALUE_MAX} characters")
    for name, value in metadata.items():
        if len(name) > VALUE_MAX or (isinstance(value, str) and len(value) > VALUE_MAX):
            raise Unevaluable(f"metadata has more than {VALUE_MAX} characters in an entry")
    try:
        return _environment().Activation({**fields, METADATA: dict(metadata)})
    except (RuntimeError, TypeError, ValueError) as error:
        raise Unevaluable(str(error)) from error
