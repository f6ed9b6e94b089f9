"""Calls the API's own handlers from a page: with the same validation, errors and effects as over HTTP."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import count
from typing import Any, TypeAlias

import msgspec

from farebox.http.control.wire import Paging
from farebox.http.envelope import Response
from farebox.http.pages.visit import Visit
from farebox.http.request import Request
from farebox.http.validation import read
from farebox.model import Caller, Permission

_PAGE = 100
"""The largest page that the API returns."""
Handler: TypeAlias = Callable[[Request, Any], Awaitable[Response]]


async def invoke(visit: Visit, handler: Handler, taken: object = None, *, query: str = "", **path: str) -> Any:
    """The handler's result, as JSON values, for the account that is shown. `path`: the other parameters of its route.
    The row of the page or form says who may do this. Raises what the handler raises: Problem, including
    InvalidInput."""
    caller = Caller(visit.session.sign_in.email or "pages", frozenset((visit.account_id,)), frozenset(Permission))
    path = {"account_id": visit.account_id, **path}
    request = replace(visit.request, path=path, query=query, body=b"", caller=caller)
    response = await handler(request, taken)
    answer = msgspec.json.decode(response.body)
    return answer.get("result", answer) if isinstance(answer, dict) else answer


async def all_items(visit: Visit, handler: Handler, query: Paging, **path: str) -> list[Any]:
    """All items of a list, page by page."""
    found: list[Any] = []
    for page in count(1):
        items = await invoke(visit, handler, msgspec.structs.replace(query, page=page, per_page=_PAGE), **path)
        found += items
        if len(items) < _PAGE:
            break
    return found


async def submit(
    visit: Visit, handler: Handler, kind: type[msgspec.Struct], body: dict[str, Any], *, query: str = "", **path: str
) -> Any:
    """The same with a body, which is validated like one that is sent over HTTP. Also raises InvalidInput."""
    return await invoke(visit, handler, read(body, kind, "body", strict=True), query=query, **path)
