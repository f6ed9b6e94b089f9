"""Fields that an object has twice. Parsers differ in which of the two they use: a provider that used the other one
would answer with another model than the one that was priced, generate more than is held, or read what belongs to
another account. No SDK sends such fields. Some servers, such as those in Go, read names without regard to case: for
them `MODEL` is `model`.
"""

import json
import re
from typing import Any, Final

from farebox.providers.formats.base import InvalidRequest
from farebox.providers.formats.references import may_refer
from farebox.quoting import quoted

_PRICED: Final = ("model", "n", "max_tokens", "max_completion_tokens", "max_output_tokens")
"""Fields that decide what a call may cost, in upper or lower case."""
_NAMED: Final = re.compile(f'"({"|".join(_PRICED)})"'.encode(), re.IGNORECASE)
_SHORT: Final = 1024
"""Bytes of a body up to which counting is faster than the regular expression."""


def check(body: bytes, *, refers: bool = False, may: bool | None = None) -> None:
    """Raises InvalidRequest if an object in a JSON body has a field twice. Only a body that names a model or a limit
    more than once, in any place, or may refer to something that the provider keeps is searched: few do. `refers`: it
    does refer to something. `may`: the result of may_refer, if known."""
    if not (refers or _repeats(body) or (may_refer(body) if may is None else may)):
        return
    try:
        json.loads(body, object_pairs_hook=_check_fields, parse_int=str, parse_float=str)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        return  # not JSON: whatever reads it reports that


def _repeats(body: bytes) -> bool:
    """Whether one of the priced names occurs more than once."""
    if len(body) <= _SHORT:
        count = body.lower().count
        if count(b'"model"') < 2 and count(b'"max_') < 2 and count(b'"n"') < 2:
            return False  # as in most bodies
    found = _NAMED.findall(body)
    return len(found) > 1 and len({name.lower() for name in found}) < len(found)


def _check_fields(fields: list[tuple[str, Any]]) -> None:
    names = set[str]()
    for name, _ in fields:
        known = lowered if (lowered := name.lower()) in _PRICED else name
        if known in names:
            case = "" if name == known else f", as {quoted(known)} in other letters"
            raise InvalidRequest(f"The field {quoted(name)} occurs twice in one object{case}: send it once.")
        names.add(known)
