"""A subset of Stripe's search language: `field:'text'`, `field~'part'`, `created>1`, `metadata['k']:'v'`,
`-` before a clause, and one of AND or OR between clauses."""

import re
from collections.abc import Iterable

from fake_stripe.errors import Json, StripeError, invalid
from fake_stripe.params import Params

_CLAUSE = re.compile(
    r"""\s*(?P<not>-)?(?P<field>\w+(?:\.\w+)*)(?:\[(?P<q>['"])(?P<key>.*?)(?P=q)\])?\s*(?P<how><=|>=|[:~<>])\s*"""
    r"""(?:(?P<quote>['"])(?P<text>(?:\\.|(?!(?P=quote)).)*)(?P=quote)|(?P<bare>[\w.-]+))\s*""",
    re.DOTALL,
)
_BETWEEN = re.compile(r"(AND|OR)\b", re.IGNORECASE)


def search(resources: Iterable[Json], params: Params, url: str) -> Json:
    """One page of what matches. Raises StripeError if the query cannot be read."""
    clauses, any_of = _parse(params.need("query"))
    limit = params.integer("limit") or 10
    start = params.integer("page") or 0
    test = any if any_of else all
    found = [
        resource for resource in resources if not resource.get("deleted") and test(_holds(c, resource) for c in clauses)
    ]
    more = len(found) > start + limit
    return {
        "object": "search_result",
        "data": found[start : start + limit],
        "has_more": more,
        "next_page": str(start + limit) if more else None,
        "url": url,
    }


def _parse(query: str) -> tuple[list["re.Match[str]"], bool]:
    clauses, place, words = [], 0, set()
    while True:
        match = _CLAUSE.match(query, place)
        if match is None:
            raise _unreadable(query)
        clauses.append(match)
        place = match.end()
        if place == len(query):
            break
        word = _BETWEEN.match(query, place)
        if word is not None:
            words.add(word[1].upper())
            place = word.end()
        else:
            words.add("AND")
    if len(words) > 1:
        raise _unreadable(query)
    return clauses, words == {"OR"}


def _unreadable(query: str) -> StripeError:
    return invalid(f"We were unable to parse your search query: {query[:200]}", param="query")


def _holds(clause: "re.Match[str]", resource: Json) -> bool:
    value: object = resource
    for name in clause["field"].split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if clause["key"] is not None:
        value = value.get(clause["key"]) if isinstance(value, dict) else None
    wanted = clause["bare"] if clause["text"] is None else re.sub(r"\\(.)", r"\1", clause["text"])
    return _compared(value, clause["how"], wanted) is not bool(clause["not"])


def _compared(value: object, how: str, wanted: str) -> bool:
    if how in ("<", ">", "<=", ">="):
        if not isinstance(value, int) or not wanted.lstrip("-").isdigit():
            return False
        bound = int(wanted)
        return (value < bound, value > bound, value <= bound, value >= bound)[("<", ">", "<=", ">=").index(how)]
    if wanted == "null":
        return value is None
    if value is None:
        return False
    have = str(value).lower()
    return wanted.lower() in have if how == "~" else wanted.lower() == have
