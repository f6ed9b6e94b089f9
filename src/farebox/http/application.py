"""Where every request enters: routes to the data plane or the control plane, and turns every error into a response."""

import itertools
import re
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from farebox.errors import INTERNAL, Problem
from farebox.http.auth import authenticate, authorize
from farebox.http.call_target import is_data_plane
from farebox.http.client_address import Clients
from farebox.http.custom_hosts import gateway_of_host, led
from farebox.http.envelope import Response, Stream, database_unavailable, failure, send_headers
from farebox.http.exchange import ClientGone, Exchange
from farebox.http.public_path import below, rooted
from farebox.http.quotas import anonymous_client, spend
from farebox.http.refusals import Pages, public_url
from farebox.http.request import Request, parse_query, whole_body
from farebox.http.router import Access, MethodNotAllowed, Route, Router, shown
from farebox.http.routes import ROUTES
from farebox.http.validation import read, read_body
from farebox.limits.held import ANONYMOUS
from farebox.model import Caller
from farebox.runtime.known_accounts import KnownAccount
from farebox.runtime.services import Services
from farebox.standing import path_of
from farebox.storage.sql import DatabaseUnavailable, NodeAway

log = structlog.get_logger("farebox.http")

_of_account = re.compile(r"/+client/v4/accounts/([^/]+)/").match
METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
"""All that there are at some URL."""


class _Admitted(msgspec.Struct, frozen=True):
    """What a request's head leads to, kept with it (http.exchange.RequestHead.memo): a client repeats it on its
    connection."""

    known: KnownAccount
    """The account's configuration as it was when the caller was admitted."""
    route: Route
    parameters: dict[str, str]
    caller: Caller
    """By an access token."""

    def is_current(self, services: Services) -> bool:
        """Whether the caller would be admitted again now."""
        expires_at = self.caller.expires_at
        return self.known.current and (expires_at is None or services.clock.now_ms() < expires_at)


class Application:
    """Answers any exchange; no exception leaves it but the cancellation of its task. Model calls have their own edge
    (http.data_plane)."""

    def __init__(self, services: Services, data_plane: Callable[[Exchange], Awaitable[None]]) -> None:
        self._services = services
        self._clients = Clients(services.settings)
        self._root = path_of(services.settings.public_url)
        self._public_url = public_url(services.settings)
        self._data_plane = data_plane
        self._router = Router(ROUTES)
        self._process = services.ids.account_id()[:8]
        self._requests = itertools.count(1)

    def __call__(self, exchange: Exchange) -> Awaitable[None]:
        domains = self._services.configuration.domains
        gateway = gateway_of_host(domains, self._clients, exchange) if domains else None
        if self._clients.behind_proxies:
            self._clients.resolve(exchange)
        if gateway is not None:
            return self._data_plane(led(exchange, gateway))
        if self._root:
            exchange.path = below(self._root, exchange.path)
        return self._data_plane(exchange) if is_data_plane(exchange.path) else self._responded(exchange)

    async def _responded(self, exchange: Exchange) -> None:
        """Answer what is no model call."""
        if exchange.path == "*":  # only OPTIONS asks for it: what the server can do
            exchange.respond(204, [("allow", METHODS)], b"")
            return
        request_id = self._new_id()
        try:
            response = await self._control_plane(exchange, request_id)
        except ClientGone:
            return
        except Exception as error:  # noqa: BLE001 - this is the edge: what is not answered here is answered nowhere
            extra = (("allow", error.allow),) if isinstance(error, MethodNotAllowed) else ()
            response = failure(_problem_of(error, exchange, request_id), self._pages(exchange.path), *extra)
        try:
            if isinstance(response, Stream) and exchange.method != "HEAD":
                await _feed(exchange, response, request_id)
            else:
                _send(exchange, response, request_id)
        except Exception:  # noqa: BLE001 - the client has gone, or the response had begun before the error
            log.info("not answered", request_id=request_id, status=response.status)

    def _pages(self, path: str) -> Pages:
        account = _of_account(path)
        return Pages(self._public_url, account[1]) if account else Pages("", "")

    def _new_id(self) -> str:
        return f"{self._process}{next(self._requests):08x}-FBX"

    async def _control_plane(self, exchange: Exchange, request_id: str) -> Response:
        memo = exchange.head.memo
        before = memo if isinstance(memo, _Admitted) and memo.is_current(self._services) else None
        if before is None:
            route, parameters = self._router.find(exchange.method, exchange.path)
        else:
            route, parameters = before.route, before.parameters
        try:
            caller = await self._admit(route, exchange, parameters) if before is None else before.caller
            if caller is not None and caller.token_id is not None:
                self._services.last_uses.note(
                    next(iter(caller.accounts)), "token", caller.token_id, self._services.clock.now_ms()
                )
            if route.budget is not None and route.access is Access.ACCOUNT:
                spend(self._services, route.budget, parameters["account_id"])
            response = await self._handle(route, exchange, parameters, caller)
        except ClientGone:
            raise
        except Exception as error:  # noqa: BLE001 - the edge again: the route says what its errors look like
            response = route.on_problem(_problem_of(error, exchange, request_id), self._pages(exchange.path))
        return rooted(response, self._root) if self._root else response

    async def _handle(
        self, route: Route, exchange: Exchange, parameters: dict[str, str], caller: Caller | None
    ) -> Response:
        known = caller is not None and route.access is Access.ACCOUNT
        holder = parameters["account_id"] if known else ANONYMOUS + anonymous_client(exchange.client)
        exchange.hold(self._services.held.lease(holder))
        body = b""
        if route.raw_limit:
            body = await whole_body(exchange, self._services.settings, route.raw_limit)
        request = Request(
            self._services,
            exchange.headers,
            parameters,
            exchange.query,
            caller,
            body,
            client=exchange.client,
            encrypted=exchange.encrypted,
            data_plane=self._data_plane,
        )
        if route.takes is None:
            return await route.handler(request, None)
        if route.takes_body:
            body = await whole_body(exchange, self._services.settings)
            return await route.handler(request, read_body(body, route.takes))
        query = read(dict(parse_query(exchange.query)), route.takes, "query", strict=False)
        return await route.handler(request, query)

    async def _admit(self, route: Route, exchange: Exchange, parameters: dict[str, str]) -> Caller | None:
        if route.access in (Access.PUBLIC, Access.TOKEN):
            return None
        known = self._services.configuration.known(parameters.get("account_id", ""))
        caller = await authenticate(exchange.headers, self._services.configuration)
        if route.access is Access.ACCOUNT:
            authorize(caller, parameters["account_id"], route.permissions, route.denied)
            if caller.token_id is not None:
                exchange.head.memo = _Admitted(known, route, parameters, caller)
        return caller


def _problem_of(error: Exception, exchange: Exchange, request_id: str) -> Problem:
    """What the caller sees of an exception; anything but a Problem is logged, and not disclosed."""
    if isinstance(error, Problem):
        return error
    where = {"request_id": request_id, "method": exchange.method, "path": shown(exchange.path)}
    if isinstance(error, DatabaseUnavailable):
        say = log.info if isinstance(error, NodeAway) else log.error  # a node away has had its line in the log
        say("database unavailable", **where, reason=str(error))
        return database_unavailable(error)
    log.error("internal error", **where, exc_info=error)
    return Problem(INTERNAL, f"Internal error. Request ID: {request_id}")


async def _feed(exchange: Exchange, response: Stream, request_id: str) -> None:
    stream = exchange.start(response.status, send_headers(response, request_id))
    await stream.send(response.body)
    await response.feed(stream, exchange.gone())


def _send(exchange: Exchange, response: Response, request_id: str) -> None:
    headers = send_headers(response, request_id)
    if exchange.method == "HEAD":
        exchange.respond(response.status, [*headers, ("content-length", str(len(response.body)))], b"")
    else:
        exchange.respond(response.status, headers, response.body)
