"""Lists of objects that providers keep for an account, made from what is recorded here, paged like each provider's
lists."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from farebox.calls.ownership import description, not_found
from farebox.errors import INVALID_REQUEST, Problem
from farebox.providers.descriptions import GOOGLE
from farebox.providers.objects import ObjectCall
from farebox.storage.stored_objects import StoredObject

_PAGES: Final = {
    ("openai", "file"): (10_000, 10_000),
    ("openai", "batch"): (20, 100),
    ("openai", "video"): (20, 100),
    ("anthropic", "file"): (20, 1_000),
    ("anthropic", "batch"): (20, 1_000),
    ("mistral", "file"): (100, 1_000),
    ("mistral", "batch"): (100, 1_000),
    (GOOGLE, "file"): (10, 100),
    (GOOGLE, "batch"): (10, 1_000),
    (GOOGLE, "cached_content"): (1_000, 1_000),
}
"""Page size: the default, and the maximum."""
_GOOGLE_NAMES: Final = {"file": "files", "batch": "operations", "cached_content": "cachedContents"}
_FILTERS: Final = ("purpose", "status", "model")
"""Fields of descriptions that a query can filter a list by."""

Query = Sequence[tuple[str, str]]


class ListPage(msgspec.Struct):
    """A part of a list."""

    of: list[StoredObject]
    total: int
    more: bool


def page_of(found: list[StoredObject], call: ObjectCall, query: Query) -> ListPage:
    """The part of the list that the query asks for; `found` is the list, oldest first. Raises Problem (INVALID_REQUEST,
    OBJECT_NOT_FOUND)."""
    fields = dict(query)
    for name in _FILTERS:
        if wanted := {value for other, value in query if other == name}:
            found = [kept for kept in found if description(kept.content or b"").get(name) in wanted]
    if call.form == GOOGLE:
        return _by_token(found, call, fields)
    if call.form == "mistral":
        return _by_number(found, call, fields)
    return _by_cursor(found, call, fields)


def list_page(page: ListPage, call: ObjectCall, data: list[msgspec.Raw]) -> bytes:
    """The page in the provider's form; `data` has the descriptions of its objects."""
    first, last = (page.of[0].object_id, page.of[-1].object_id) if page.of else (None, None)
    if call.form == "mistral":
        return msgspec.json.encode({"object": "list", "total": page.total, "data": data})
    if call.form == GOOGLE:
        token = {"nextPageToken": last} if page.more else {}
        return msgspec.json.encode({_GOOGLE_NAMES[call.kind]: data, **token} if data else {})
    found: dict[str, Any] = {"data": data, "has_more": page.more, "first_id": first, "last_id": last}
    more = {"object": "list"} if call.form == "openai" else {"next_page": last if page.more else None}
    return msgspec.json.encode({**found, **more})


def _by_cursor(found: list[StoredObject], call: ObjectCall, query: Mapping[str, str]) -> ListPage:
    """Pages of OpenAI and Anthropic: the objects after or before an ID."""
    usual, most = _PAGES[call.form, call.kind]
    limit, order = _number(query, "limit", usual, 1, most), query.get("order", "desc")
    after, before = (query.get(name, query.get(f"{name}_id", "")) for name in ("after", "before"))
    after = after or query.get("page", "")
    if order not in ("asc", "desc"):
        raise Problem(INVALID_REQUEST, "`order` is asc or desc.")
    ordered = found if order == "asc" else found[::-1]
    ids = [kept.object_id for kept in ordered]
    for named in filter(None, (after, before)):
        if named not in ids:
            raise not_found(call.kind, named)
    between = ordered[ids.index(after) + 1 if after else 0 : ids.index(before) if before else len(ids)]
    page = between[-limit:] if before else between[:limit]
    return ListPage(page, len(ids), len(page) < len(between))


def _by_number(found: list[StoredObject], call: ObjectCall, query: Mapping[str, str]) -> ListPage:
    """Pages of Mistral: numbered from zero."""
    usual, most = _PAGES[call.form, call.kind]
    size, number = _number(query, "page_size", usual, 1, most), _number(query, "page", 0, 0, 10**6)
    ordered = found if query.get("order_by") == "created" else found[::-1]
    page = ordered[number * size : (number + 1) * size]
    return ListPage(page, len(found), (number + 1) * size < len(found))


def _by_token(found: list[StoredObject], call: ObjectCall, query: Mapping[str, str]) -> ListPage:
    """Pages of Google: the token of the next page is the last ID of this one."""
    usual, most = _PAGES[call.form, call.kind]
    size, token = _number(query, "pageSize", usual, 1, most), query.get("pageToken", "")
    ids = [kept.object_id for kept in found]
    if token and token not in ids:
        raise Problem(INVALID_REQUEST, "There is no such page.")
    rest = found[ids.index(token) + 1 if token else 0 :]
    return ListPage(rest[:size], len(ids), len(rest) > size)


def _number(query: Mapping[str, str], name: str, usual: int, least: int, most: int) -> int:
    text = query.get(name, str(usual))
    if text.isascii() and text.isdigit() and len(text) <= 7 and least <= int(text) <= most:
        return int(text)
    raise Problem(INVALID_REQUEST, f"`{name}` is a whole number from {least} to {most}.")
