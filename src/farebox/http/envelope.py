"""The control plane's response format: Cloudflare's v4 envelope around results and errors.

Every envelope has `result`, `success`, `errors` and `messages`; a page has `result_info` too.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from farebox.errors import DATABASE_UNAVAILABLE, NO_ROUTE, NODE_UNAVAILABLE, PROCESSOR_REFUSED, Problem
from farebox.http.exchange import HeaderList, ResponseStream
from farebox.http.refusals import Pages, facts_of
from farebox.http.validation import InvalidInput
from farebox.storage.sql import DatabaseUnavailable, NodeUnavailable

JSON = "application/json"
HTML = "text/html; charset=utf-8"
_FOR_THE_CALLER = ("cache-control", "no-store")
_encode = msgspec.json.Encoder().encode


class Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """An item of `messages`, or of an error's `error_chain`."""

    code: int
    message: str


class ErrorItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """An item of `errors`."""

    code: int
    message: str
    path: tuple[str | int, ...] | None = None
    """The place of the fault in the request; for validation errors only."""
    error_chain: list[Note] = []


class ResultInfo(msgspec.Struct, frozen=True):
    """The position of a page within its list. `count` is the number of items on the page."""

    page: int
    per_page: int
    count: int
    total_count: int


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every response that uses the envelope."""

    result: Any
    success: bool = True
    errors: list[ErrorItem] = []
    messages: list[Note] = []
    result_info: Any | msgspec.UnsetType = msgspec.UNSET


class Response(msgspec.Struct, frozen=True):
    """A complete response, without the headers that are added to every response."""

    body: bytes
    status: int = 200
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


class Stream(Response, frozen=True, kw_only=True):
    """A response that continues after its `body`."""

    body: bytes = b""
    feed: Callable[[ResponseStream, Awaitable[None]], Awaitable[None]]
    """Sends the rest. The second argument is done when the client has disconnected."""


def ok(result: object, *messages: Note, status: int = 200) -> Response:
    """One result."""
    return Response(_encode(Envelope(result=result, messages=list(messages))), status)


def page(items: Sequence[object], number: int, per_page: int, total: int, info: object = None) -> Response:
    """One page of a list; past the end it is empty, which tells the official clients to stop.

    `info` replaces the usual `result_info`.
    """
    info = info or ResultInfo(number, per_page, len(items), total)
    return Response(_encode(Envelope(result=items, result_info=info)))


def plain(value: object, status: int = 200) -> Response:
    """JSON without an envelope."""
    return Response(_encode(value), status)


_FINAL = (402, 403, 409, 501)
"""Statuses that a repeated request would get again."""


def failure(problem: Problem, pages: Pages) -> Response:
    """The envelope of a problem."""
    headers = []
    if problem.retry_after is not None:
        headers.append(("retry-after", str(problem.retry_after)))
    if problem.kind.status in _FINAL or problem.kind is PROCESSOR_REFUSED:
        headers.append(("x-should-retry", "false"))  # the official clients would send a 409 or a 501 three times
    body = {"result": None, "success": False, "errors": _items(problem), "messages": [], **facts_of(problem, pages)}
    return Response(_encode(body), problem.kind.status, headers=tuple(headers))


def _items(problem: Problem) -> list[ErrorItem]:
    code = problem.kind.code
    if isinstance(problem, InvalidInput):
        return [ErrorItem(code, fault.message, fault.path) for fault in problem.faults]
    chain = [Note(*link) for link in problem.chain]
    items = [ErrorItem(code, problem.message, problem.path, chain)]
    if problem.kind is NO_ROUTE:
        items.append(ErrorItem(7000, "No route for that URI"))
    return items


def send_headers(response: Response, request_id: str) -> HeaderList:
    """The headers of a control-plane response. Unless the response says otherwise, only the caller may store it."""
    headers = [("content-type", response.content_type), ("cf-ray", request_id), *response.headers]
    if not response.headers or not any(name == "cache-control" for name, _ in response.headers):
        headers.append(_FOR_THE_CALLER)
    return headers


DATABASE_RETRY_SECONDS = 2


def database_unavailable(error: DatabaseUnavailable) -> Problem:
    """The error while the database is unavailable, on both planes."""
    kind = NODE_UNAVAILABLE if isinstance(error, NodeUnavailable) else DATABASE_UNAVAILABLE
    return Problem(kind, error.public_message, retry_after=DATABASE_RETRY_SECONDS)
