"""The entry point of every request: it is routed to the data plane or the control plane, and every error becomes a
response."""

import asyncio
import itertools
import re
from collections.abc import Awaitable
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import structlog

from farebox.errors import INTERNAL, Problem
from farebox.http.auth import authenticate, authorize, authorize_gateway
from farebox.http.call_target import is_data_plane
from farebox.http.client_address import Clients
from farebox.http.custom_hosts import gateway_of_host, on_own_host
from farebox.http.envelope import Response, Stream, database_unavailable, failure, send_headers
from farebox.http.exchange import ClientGone, Exchange
from farebox.http.pages.visit import error_page, is_browser
from farebox.http.public_path import at_root, below
from farebox.http.quotas import anonymous_client, spend
from farebox.http.refusals import Pages, public_url
from farebox.http.request import Request, parse_query, whole_body
from farebox.http.router import Access, AccountRead, MethodNotAllowed, Route, Router, shown
from farebox.http.routes import ROUTES
from farebox.http.server.state import Handler
from farebox.http.validation import read, read_body
from farebox.ingress import path_of
from farebox.limits.byte_budget import ANONYMOUS
from farebox.limits.last_uses import Used
from farebox.runtime.known_accounts import KnownAccount
from farebox.runtime.services import Services
from farebox.storage.sql import DatabaseUnavailable, NodeUnavailable

log = structlog.get_logger("farebox.http")

_of_account = re.compile(r"/+client/v4/accounts/([^/]+)/").match
METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
"""All methods that exist at any URL."""


class _Admitted(msgspec.Struct, frozen=True):
    """The route and caller of a request, determined from its head. If the caller has an access token, this is kept with
    the head (http.exchange.RequestHead.memo), which a client repeats on its connection."""

    known: KnownAccount | None
    """The account's configuration as it was when the caller was admitted; None if the route does not belong to an
    account."""
    route: Route
    request: Request
    """The request without its body. Its headers are those of the first request with this head; in a later one,
    `content-length` may differ (http.server.cached_head), so no handler may read that: only the exchange knows a body's
    length."""
    holder: str
    """The account, or the anonymous client, on which the request's memory is counted."""
    used: Used | None
    """The access token."""
    expires_at: int | None
    """When the token expires, in milliseconds since the Unix epoch."""

    def is_current(self, services: Services) -> bool:
        """Whether the caller would still be admitted now."""
        known, expires_at = self.known, self.expires_at
        return known is not None and known.current and (expires_at is None or services.clock.now_ms() < expires_at)


class Application:
    """Answers any exchange; the only exception that leaves it is the cancellation of its task. Model calls have their
    own edge (http.data_plane)."""

    def __init__(self, services: Services, data_plane: Handler) -> None:
        self._services = services
        self._clients = Clients(services.settings)
        self._behind_proxies = self._clients.behind_proxies
        self._root = path_of(services.settings.public_url)
        self._public_url = public_url(services.settings)
        self._data_plane = data_plane
        self._router = Router(ROUTES)
        self._process = services.ids.account_id()[:8]
        self._requests = itertools.count(1)

    def __call__(self, exchange: Exchange) -> Awaitable[None] | None:
        """Answer the exchange. Returns what is left to do (http.server.state.Handler)."""
        services = self._services
        domains = services.configuration.domains
        gateway = gateway_of_host(domains, self._clients, exchange) if domains else None
        if self._behind_proxies:
            self._clients.resolve(exchange)
        if gateway is not None:
            return self._data_plane(on_own_host(exchange, gateway))
        if self._root:
            exchange.path = below(self._root, exchange.path)
        memo = exchange.head.memo
        if isinstance(memo, _Admitted):
            if not memo.is_current(services):
                return self._responded(exchange, None)
            reads = memo.route.reads
            return self._responded(exchange, memo) if reads is None else self._read(exchange, memo, reads)
        return self._data_plane(exchange) if is_data_plane(exchange.path) else self._responded(exchange, None)

    async def _responded(self, exchange: Exchange, before: _Admitted | None) -> None:
        """Answer a request that is not a model call. `before`: what an earlier request with the same head was admitted
        to, if that is current."""
        if exchange.path == "*":  # only used with OPTIONS, which asks what the server can do
            exchange.respond(204, [("allow", METHODS)], b"")
            return
        request_id = self._new_id()
        try:
            response = await self._control_plane(exchange, request_id, before)
        except ClientGone:
            return
        except Exception as error:  # noqa: BLE001 - the edge: no one else would answer
            response = await self._failed(None, error, exchange, request_id)
        if self._root:
            response = at_root(response, self._root)
        if not isinstance(response, Stream) or exchange.method == "HEAD":
            _send(exchange, response, request_id)
            return
        try:
            await _feed(exchange, response, request_id)
        except Exception:  # noqa: BLE001 - the client has gone, or the response had begun before the error
            _not_answered(response, request_id)

    def _read(self, exchange: Exchange, admitted: _Admitted, reads: AccountRead) -> "asyncio.Future[Any] | None":
        """Answer a request that needs one read of an account, now or as a callback of the read."""
        request_id = self._new_id()
        try:
            self._begin(admitted, exchange)
            found = self._services.database.get_shared(reads.read, admitted.request.account_id)
        except Exception as error:  # noqa: BLE001 - as in _control_plane
            _send(exchange, self._refusal(admitted.route, error, exchange, request_id), request_id)
            return None
        answered = partial(self._answered, exchange, admitted, reads, request_id)
        if found.done():
            answered(found)
            return None
        found.add_done_callback(answered)
        return found

    def _answered(
        self, exchange: Exchange, admitted: _Admitted, reads: AccountRead, request_id: str, found: "asyncio.Future[Any]"
    ) -> None:
        """The read is done."""
        if found.cancelled():  # the server stops
            return
        try:
            response = reads.answer(admitted.request, found.result())
        except Exception as error:  # noqa: BLE001 - as in _control_plane
            response = self._refusal(admitted.route, error, exchange, request_id)
        _send(exchange, response, request_id)

    def _pages(self, path: str) -> Pages:
        account = _of_account(path)
        return Pages(self._public_url, account[1]) if account else Pages("", "")

    def _new_id(self) -> str:
        return f"{self._process}{next(self._requests):08x}-FBX"

    async def _control_plane(self, exchange: Exchange, request_id: str, before: _Admitted | None) -> Response:
        if before is None:
            route, parameters = self._router.find(exchange.method, exchange.path)
        else:
            route, parameters = before.route, {}
        try:
            admitted = before or await self._admit(route, exchange, parameters)
            self._begin(admitted, exchange)
            if route.takes is None and not route.raw_limit:
                response = await route.handler(admitted.request, None)
            else:
                response = await self._with_input(route, admitted.request, exchange)
        except ClientGone:
            raise
        except Exception as error:  # noqa: BLE001 - the edge: the route formats its errors
            response = await self._failed(route, error, exchange, request_id)
        return response

    async def _failed(self, route: Route | None, error: Exception, exchange: Exchange, request_id: str) -> Response:
        """The response to an exception. `route`: None if there is none for the request."""
        if (route is None or route.on_problem is failure) and is_browser(exchange.headers, exchange.path):
            return await error_page(_problem_of(error, exchange, request_id), *_allowed(error))
        return self._refusal(route, error, exchange, request_id)

    def _refusal(self, route: Route | None, error: Exception, exchange: Exchange, request_id: str) -> Response:
        """The same if no person in a browser sees it."""
        on_problem, allowed = failure if route is None else route.on_problem, _allowed(error)
        response = on_problem(_problem_of(error, exchange, request_id), self._pages(exchange.path))
        return msgspec.structs.replace(response, headers=(*response.headers, *allowed)) if allowed else response

    def _begin(self, admitted: _Admitted, exchange: Exchange) -> None:
        """Count a request that is about to be handled. Raises Problem if a limit is exceeded."""
        services, route = self._services, admitted.route
        if admitted.used is not None:
            services.last_uses.note(admitted.used, services.clock.now_ms())
        if route.budget is not None and route.access is Access.ACCOUNT:
            spend(services, route.budget, admitted.request.account_id)
        exchange.hold(services.held.lease(admitted.holder))

    async def _with_input(self, route: Route, request: Request, exchange: Exchange) -> Response:
        """The response of a route that takes a body or parameters. Raises Problem."""
        settings = self._services.settings
        if route.raw_limit:
            request = replace(request, body=await whole_body(exchange, settings, route.raw_limit))
        if route.takes is None:
            return await route.handler(request, None)
        if route.takes_body:
            body = await whole_body(exchange, settings)
            return await route.handler(request, read_body(body, route.takes))
        query = read(dict(parse_query(exchange.query)), route.takes, "query", strict=False)
        return await route.handler(request, query)

    async def _admit(self, route: Route, exchange: Exchange, parameters: dict[str, str]) -> _Admitted:
        """Determine who is calling, and which route. Raises Problem."""
        of_account = route.access is Access.ACCOUNT
        known = self._services.configuration.known(parameters["account_id"]) if of_account else None
        caller = None
        used: Used | None = None
        if route.access not in (Access.PUBLIC, Access.TOKEN):
            caller = await authenticate(exchange.headers, self._services.configuration)
            if caller.token_id is not None:
                used = next(iter(caller.accounts)), "token", caller.token_id
        if of_account and caller is not None:
            authorize(caller, parameters["account_id"], route.permissions, route.denied)
            authorize_gateway(caller, parameters.get("gateway_id"), limited_too=route.limited_too)
            holder = parameters["account_id"]
        else:
            holder = ANONYMOUS + anonymous_client(exchange.client)
        request = Request(
            self._services,
            exchange.headers,
            parameters,
            exchange.query,
            caller,
            client=exchange.client,
            encrypted=exchange.encrypted,
            data_plane=self._data_plane,
        )
        admitted = _Admitted(known, route, request, holder, used, None if caller is None else caller.expires_at)
        if of_account and used is not None:
            exchange.head.memo = admitted
        return admitted


def _problem_of(error: Exception, exchange: Exchange, request_id: str) -> Problem:
    """The problem that the caller sees for an exception; anything but a Problem is logged, and not disclosed."""
    if isinstance(error, Problem):
        return error
    where = {"request_id": request_id, "method": exchange.method, "path": shown(exchange.path)}
    if isinstance(error, DatabaseUnavailable):
        # the unavailable node has already been logged
        write = log.info if isinstance(error, NodeUnavailable) else log.error
        write("database unavailable", **where, reason=str(error))
        return database_unavailable(error)
    log.error("internal error", **where, exc_info=error)
    return Problem(INTERNAL, f"Internal error. Request ID: {request_id}")


def _allowed(error: Exception) -> tuple[tuple[str, str], ...]:
    return (("allow", error.allow),) if isinstance(error, MethodNotAllowed) else ()


async def _feed(exchange: Exchange, response: Stream, request_id: str) -> None:
    stream = exchange.start(response.status, send_headers(response, request_id))
    await stream.send(response.body)
    await response.feed(stream, exchange.gone())


def _send(exchange: Exchange, response: Response, request_id: str) -> None:
    try:
        headers = send_headers(response, request_id)
        if exchange.method == "HEAD":
            exchange.respond(response.status, [*headers, ("content-length", str(len(response.body)))], b"")
        else:
            exchange.respond(response.status, headers, response.body)
    except Exception:  # noqa: BLE001 - the client has gone
        _not_answered(response, request_id)


def _not_answered(response: Response, request_id: str) -> None:
    log.info("not answered", request_id=request_id, status=response.status)
