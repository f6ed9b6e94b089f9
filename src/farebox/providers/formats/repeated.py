"""Fields that an object has twice. Readers differ in which of the two counts: a provider that took the other one would
answer by another model than the one that was priced, or read what belongs to another account. No SDK sends any."""

import json
from typing import Any

from farebox.providers.formats.base import InvalidRequest
from farebox.providers.formats.references import may_refer


def check(body: bytes, *, refers: bool = False, may: bool | None = None) -> None:
    """Raises InvalidRequest where an object of a JSON body has a field twice. Only bodies are looked through that name
    a model more than once, in whatever place, or may refer to something that the provider keeps: few do. `refers`: it
    does. `may`: what may_refer says of it, where that is known."""
    if not refers and body.count(b'"model"') < 2 and not (may_refer(body) if may is None else may):
        return
    try:
        json.loads(body, object_pairs_hook=_check_fields, parse_int=str, parse_float=str)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        return  # it is no JSON, as whatever reads it says


def _check_fields(fields: list[tuple[str, Any]]) -> None:
    names = set[str]()
    for name, _ in fields:
        if name in names:
            raise InvalidRequest(f"The field {name[:64]!r} is there twice in one object: send it once.")
        names.add(name)
