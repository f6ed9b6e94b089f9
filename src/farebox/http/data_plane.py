"""The data plane: model calls, from the request to the response."""

import asyncio
import re
from collections.abc import Awaitable
from urllib.parse import unquote

import structlog

from farebox.calls.cache import answer_hit
from farebox.calls.hit_records import write_later
from farebox.calls.key_selection import choose_key
from farebox.calls.large_body import LARGE_BODY
from farebox.calls.model import Call
from farebox.calls.serve import serve_call
from farebox.calls.watch import Interrupted, Watch, Watches
from farebox.calls.websockets.session import Session
from farebox.errors import (
    ACCOUNT_CALLS_FULL,
    INTERNAL,
    NO_ROUTE,
    TOO_MANY_CALLS,
    ClientGone,
    Problem,
)
from farebox.http import cross_origin
from farebox.http.build_call import COMMON, known_call, native_call
from farebox.http.caching import answered_from_cache, serve_missed
from farebox.http.call_body import body_of, check_credit, received_body
from farebox.http.call_target import RUN, CallTarget, target_of, waits_in_silence
from farebox.http.envelope import database_unavailable
from farebox.http.exchange import Exchange
from farebox.http.model_list import model_list
from farebox.http.parse_body import shutting_down
from farebox.http.payer import pays_itself
from farebox.http.permits import Permit, Repeats, Understood, permit_of
from farebox.http.provider_errors import Form
from farebox.http.proxy_request import ProxyRequest, RouteName
from farebox.http.quotas import MODEL_LISTS, spend
from farebox.http.rate_limits import count_call
from farebox.http.refusals import public_url
from farebox.http.repeated_hits import hit_in_memory, repeats_of
from farebox.http.route_steps import named_steps
from farebox.http.router import shown
from farebox.http.run_form import run_call
from farebox.http.sink import HttpSink
from farebox.http.socket_plane import SocketRequest, no_socket, universal_session, wants_socket
from farebox.http.steps import common_call, serve_steps, universal_steps
from farebox.http.subprotocols import OfferedProtocols, offered
from farebox.http.universal_socket import UniversalSession
from farebox.metrics.families import CACHE_LOOKUPS, CLIENTS_GONE, REFUSED
from farebox.runtime.own_providers import NOTHING
from farebox.runtime.services import Services
from farebox.storage.sql import DatabaseUnavailable, NodeUnavailable

SETTLE_SECONDS = 5.0
_lists_models = re.compile(r"(?:v1/)?models(?:/(?P<model>.+))?").fullmatch

log = structlog.get_logger("farebox.calls")


class DataPlane:
    """Serves model calls, and counts those in flight, so that a stop can wait for them. Create it inside the running
    loop."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._loop = asyncio.get_running_loop()
        self._watches = Watches()
        self._sessions: set[Session | UniversalSession] = set()
        self._draining = False
        settings = services.settings
        self._call_seconds = settings.call_timeout_ms / 1000
        self._no_credit = settings.no_credit_status
        self._public_url = public_url(settings)
        self._comment_seconds = settings.stream_comment_ms / 1000

    def handle(self, exchange: Exchange) -> Awaitable[None] | None:
        """Answer one exchange, whatever happens. Returns what is left to do (http.server.state.Handler)."""
        memo = exchange.head.memo
        if isinstance(memo, Understood) and memo.repeats is not None and self._answered(exchange, memo, memo.repeats):
            return None
        return self._handle(exchange)

    async def _handle(self, exchange: Exchange) -> None:
        request_id = self._services.ids.log_id()
        understood = _understood(exchange)
        sink = self._sink(exchange, request_id, understood)
        task = asyncio.current_task(self._loop)  # finding the running loop takes a system call
        assert task is not None
        watch = Watch(self._watches, task, self._call_seconds)
        exchange.when_gone(watch.leave)
        try:
            await self._serve(exchange, understood, sink, watch, request_id)
        except Interrupted:  # the client has gone while the body waited to be read
            self._services.metrics.count(CLIENTS_GONE)
        except Exception as error:  # noqa: BLE001 - the client always gets a response
            self._refuse(exchange, sink, request_id, error)
        finally:
            watch.close()
            sink.close()

    def _answered(self, exchange: Exchange, understood: Understood, repeats: Repeats) -> bool:
        """Answer a request with the head of an earlier cache hit, if its response is in memory. Returns whether it was
        answered."""
        services, body = self._services, exchange.peek()
        hit = None if body is None or self._draining else hit_in_memory(services, repeats, body, exchange.client)
        if hit is None:
            return False
        call, found = hit
        sink = self._sink(exchange, call.log_id, understood)
        try:
            count_call(services, repeats.target, repeats.permit)
            exchange.hold(services.held.lease(call.account_id))  # counts what the client does not read of the response
            services.metrics.count(CACHE_LOOKUPS, "hit")
            sink.of(call, "HIT")
            write_later(services, answer_hit(services, call, sink, found))
        except Exception as error:  # noqa: BLE001 - as above
            self._refuse(exchange, sink, call.log_id, error)
        return True

    def _sink(self, exchange: Exchange, request_id: str, understood: Understood) -> HttpSink:
        return HttpSink(exchange, request_id, understood, self._no_credit, self._comment_seconds, self._public_url)

    def _refuse(self, exchange: Exchange, sink: HttpSink, request_id: str, error: Exception) -> None:
        """Respond with an error, unless a response has begun. An error of a call already has its own log line and
        row."""
        if isinstance(error, Problem):
            sink.fail(error)
            if not sink.call_known:
                path, why = shown(exchange.path), error.kind.name
                self._services.metrics.count(REFUSED, why)
                log.info("refused", request_id=request_id, path=path, error=why, client=exchange.client)
        elif isinstance(error, DatabaseUnavailable):
            problem = database_unavailable(error)
            sink.fail(problem)
            if not sink.call_known:
                self._services.metrics.count(REFUSED, problem.kind.name)
            # the unavailable node has already been logged
            write = log.info if isinstance(error, NodeUnavailable) else log.error
            write("database unavailable", request_id=request_id, why=str(error))
        else:
            sink.fail(Problem(INTERNAL, f"Internal error. Request ID: {request_id}"))
            log.error("call failed", request_id=request_id, exc_info=error)

    async def drain(self, grace_seconds: float) -> None:
        """Refuse new calls, including those whose bodies wait to be read, and wait for those in flight; calls that take
        longer are cut off and settled."""
        self._draining = True
        self._services.helpers.refuse_early()
        for session in tuple(self._sessions):
            session.stop()
        tasks = [watch.task for watch in self._watches.open]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=SETTLE_SECONDS)

    async def _serve(
        self, exchange: Exchange, understood: Understood, sink: HttpSink, watch: Watch, request_id: str
    ) -> None:
        """Admit a call, read its body, and serve it. Raises Problem, and Interrupted if its client disconnects before
        that."""
        services, target, permit = self._services, understood.target, understood.permit
        if self._draining:
            raise shutting_down()
        _check_database(services, None if target is None else target.account_id)
        if target is None:
            raise Problem(NO_ROUTE, "No such path: see docs/api.md for the URLs of model calls.")
        if exchange.method == "GET" and wants_socket(exchange):
            await self._socket(exchange, target, sink, watch, request_id)
            return
        if permit is None or not permit.is_current(services):
            permit = await self._permit(exchange, target, understood, sink)
            if permit is None:
                return
        count_call(services, target, permit)
        self._begin(target.account_id)
        try:
            request = await self._received(exchange, target, permit, sink, watch, request_id)
            if request is None:
                services.metrics.count(CLIENTS_GONE)
            elif target.slug == "":
                await serve_steps(services, await universal_steps(services, request), sink, watch)
            else:
                call = known_call(services, request) or await self._call(request)
                if isinstance(call, RouteName):
                    await serve_steps(services, await named_steps(services, request, call), sink, watch)
                    return
                del request  # the call has the body, or a changed one
                if call.cache is not None and await answered_from_cache(services, call, sink, watch):
                    self._remember_hit(exchange, understood)
                    return
                if call.keys or call.key_limit is not None:
                    call = choose_key(services, call)
                sink.of(call)
                await (serve_call if call.cache is None else serve_missed)(services, call, sink, watch)
        finally:
            services.calls.end(target.account_id)

    def _remember_hit(self, exchange: Exchange, understood: Understood) -> None:
        """Remember a hit, so that further requests with this head may be answered at once."""
        if understood.repeats is None or understood.repeats.permit is not understood.permit:
            understood.repeats = repeats_of(exchange, understood)

    async def _socket(
        self, exchange: Exchange, target: CallTarget, sink: HttpSink, watch: Watch, request_id: str
    ) -> None:
        """Serve a WebSocket until it ends. Raises Problem if it cannot begin."""
        services = self._services
        if target.slug in (RUN, *COMMON):
            raise no_socket("WebSockets are served at the paths of providers.")
        offer = offered(exchange.headers, exchange.query)
        permit = await permit_of(services, offer, target)
        count_call(services, target, permit)
        self._begin(target.account_id)
        try:
            if not target.slug:
                await self._universal(exchange, target, offer, sink)
                return
            request = SocketRequest(services, exchange, target, permit, offer, sink, watch, request_id)
            await request.serve(self._sessions.add, self._sessions.discard)
        finally:
            services.calls.end(target.account_id)

    async def _universal(self, exchange: Exchange, target: CallTarget, offer: OfferedProtocols, sink: HttpSink) -> None:
        """Serve a WebSocket of the universal endpoint until it ends."""
        try:
            session = universal_session(self._services, exchange, offer, sink, target.account_id, self._handle)
        except ClientGone:
            self._services.metrics.count(CLIENTS_GONE)
            return
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)

    async def _permit(
        self, exchange: Exchange, target: CallTarget, understood: Understood, sink: HttpSink
    ) -> Permit | None:
        """The permit for a call, kept for other requests with the same head; None if the request was not a call and has
        been answered."""
        if await self._cross_origin(exchange, target, sink):
            return None
        permit = await permit_of(self._services, exchange, target)
        listed = _lists_models(target.path) if target.slug in COMMON else None
        if exchange.method in ("GET", "HEAD") and listed is not None:
            spend(self._services, MODEL_LISTS, target.account_id)
            exchange.hold(self._services.held.lease(target.account_id))
            await self._list_models(target, permit, sink, unquote(listed["model"] or ""))
            return None
        if exchange.headers.get("origin") is None:  # with an origin, headers must be added each time
            understood.permit = permit
        return permit

    async def _list_models(self, target: CallTarget, permit: Permit, sink: HttpSink, model: str) -> None:
        """Respond with the models that can be called, or with the named one. Raises Problem."""
        services, token, limited = self._services, permit.token, None
        if token is not None:
            services.last_uses.note((token.account_id, "token", token.token_id), services.clock.now_ms())
            limited = token.models
        body = await model_list(services, target.account_id, permit.own, permit.gateway, limited, model)
        sink.respond(200, [("content-type", "application/json")], body)

    async def _received(
        self, exchange: Exchange, target: CallTarget, permit: Permit, sink: HttpSink, watch: Watch, request_id: str
    ) -> ProxyRequest | None:
        """The request with its body; None if the client has gone. Raises Problem."""
        services = self._services
        stored = permit.own is not NOTHING and pays_itself(permit.own, target.slug, exchange.headers)
        own = permit.own_key or stored
        lease = services.held.lease(target.account_id)
        exchange.hold(lease)
        sink.lease = lease
        if not own and (exchange.length is None or exchange.length > LARGE_BODY):
            await check_credit(services, exchange.method, target.account_id, target.slug, target.path)
        body = received_body(services, exchange, lease)
        if body is None:
            any_coding = permit.own_key or (stored and target.slug not in ("", RUN, *COMMON))
            body = await body_of(services, exchange, watch, lease, any_coding=any_coding)
        if body is None:
            return None
        if target.slug in ("", RUN) and isinstance(body.content, bytes):
            lease.take(len(body.content))  # a step's body is a copy, and so is a model's input
        return ProxyRequest(
            request_id,
            target.account_id,
            target.gateway_id,
            permit.gateway,
            target.slug,
            target.path,
            exchange.query if permit.upload is None else permit.upload.query,
            exchange.method,
            exchange.headers,
            body.content,
            watch,
            permit.own_key,
            permit.own,
            permit.calls,
            0,
            body.coded,
            exchange.client,
            permit.token,
            permit.policies,
            permit.upload,
        )

    async def _call(self, request: ProxyRequest) -> Call | RouteName:
        """The call, or the name of the dynamic route, that the request asks for. Raises Problem."""
        if request.slug in COMMON:
            return await common_call(self._services, request)
        return await (run_call if request.slug == RUN else native_call)(self._services, request)

    async def _cross_origin(self, exchange: Exchange, target: CallTarget, sink: HttpSink) -> bool:
        """If a page of an allowed origin is calling, let it read the responses. Returns whether this was a preflight
        request, which has been answered."""
        origin = exchange.headers.get("origin")
        if origin is None:
            return False
        gateway = await self._services.configuration.gateway(target.account_id, target.gateway_id, create=False)
        if gateway is None or not cross_origin.allowed(gateway.cors_origins, origin):
            return False
        sink.add(cross_origin.readable(origin))
        if exchange.method != "OPTIONS" or exchange.headers.get("access-control-request-method") is None:
            return False
        sink.respond(204, cross_origin.preflight(exchange.headers), b"")
        return True

    def _begin(self, account_id: str) -> None:
        """Count a call in flight. Raises Problem if the account may have no more."""
        calls = self._services.calls
        full = calls.begin(account_id)
        if full == "account":
            raise Problem(
                ACCOUNT_CALLS_FULL,
                f"The account has {calls.account_max} calls in flight, which is its limit. Nothing was charged.",
                retry_after=1,
            )
        if full == "process":
            raise Problem(
                TOO_MANY_CALLS,
                "The server has as many calls in flight as it takes, and this account has its fair share of what is "
                "left. Nothing was charged.",
                retry_after=1,
            )


def _check_database(services: Services, account_id: str | None) -> None:
    """While the database, or the node of the account's bucket, is unavailable, no call begins, not even on the caller's
    own key: whether its token is still valid is unknown. Raises Problem."""
    try:
        services.database.check()
        if account_id is not None:
            services.ledger.check(account_id)
    except DatabaseUnavailable as error:
        raise database_unavailable(error) from error


def _understood(exchange: Exchange) -> Understood:
    """What the head means, kept with the head."""
    head = exchange.head
    if isinstance(head.memo, Understood):
        return head.memo
    target = target_of(exchange.path, exchange.headers)
    form: Form = "openai" if target is None else target.form_for(exchange.headers)
    head.memo = understood = Understood(target, form, waits_in_silence(target, exchange.headers))
    return understood
