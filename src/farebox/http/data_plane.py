"""The data plane: the URLs of model calls.

/v1/{account}/{gateway}/{provider}/…           a provider's own paths
/v1/{account}/{gateway}/compat/…               OpenAI form, `provider/model`
/v1/{account}/{gateway}                        universal: steps tried in order
/client/v4/accounts/{account}/ai/v1/…          REST form, the gateway named by a header
"""

import asyncio
import re

import structlog
from msgspec.structs import replace

from farebox.calls.model import Call
from farebox.calls.serve import serve_call
from farebox.calls.watch import Interrupted, Watch
from farebox.errors import (
    ACCOUNT_CALLS_FULL,
    DATABASE_UNAVAILABLE,
    GATEWAY_UNKNOWN,
    INTERNAL,
    INVALID_REQUEST,
    MODEL_UNPRICED,
    NO_ROUTE,
    NO_WEBSOCKET,
    NOT_METERED,
    OWN_KEY_REQUIRED,
    PROVIDER_UNAVAILABLE,
    PROVIDER_UNKNOWN,
    RATE_LIMITED,
    TOO_MANY_CALLS,
    UPSTREAM_INVALID,
    UPSTREAM_TIMEOUT,
    UPSTREAM_UNREACHABLE,
    Problem,
)
from farebox.gateway import GatewayConfig
from farebox.http import cross_origin
from farebox.http.build_call import ProxyRequest, compat_call, native_call
from farebox.http.call_body import body_of, check_credit
from farebox.http.credentials import StepHeaders, authorize_run, read_credentials
from farebox.http.exchange import Exchange, RequestHeaders
from farebox.http.model_list import model_list
from farebox.http.provider_errors import Form
from farebox.http.router import shown, tidy_path
from farebox.http.server.headers import split_target
from farebox.http.sink import HttpSink
from farebox.http.take_apart import shutting_down, take_apart
from farebox.http.target import Target, target_of
from farebox.memfile import part_of
from farebox.metrics.families import CLIENTS_GONE, REFUSED
from farebox.providers.reading import Step, read_steps
from farebox.runtime.services import Services
from farebox.storage.sql import DatabaseUnavailable

_is_target = re.compile(rb"[!-~]*").fullmatch
SETTLE_SECONDS = 5.0
RETRY_SECONDS = 2
"""When to retry after a database outage."""
_COMPAT_PATHS = {"chat/completions": "chat/completions", "embeddings": "embeddings"}
_REST_PATHS = _COMPAT_PATHS | {
    "responses": "responses",
    "responses/compact": "responses/compact",
    "messages": "v1/messages",
}
"""Paths of the common forms, without the `v1/` that SDKs put before them where their base URL lacks it, or has it."""
_NEXT_STEP = (
    PROVIDER_UNAVAILABLE,
    UPSTREAM_UNREACHABLE,
    UPSTREAM_TIMEOUT,
    UPSTREAM_INVALID,
    OWN_KEY_REQUIRED,
    MODEL_UNPRICED,
    PROVIDER_UNKNOWN,
    NOT_METERED,
)
"""What is wrong with one step only, so that the next may do better."""
_MODEL_LISTS = ("models", "v1/models")
_STEP_OPTIONS = {
    "requestTimeout": "cf-aig-request-timeout",
    "maxAttempts": "cf-aig-max-attempts",
    "retryDelay": "cf-aig-retry-delay",
    "backoff": "cf-aig-backoff",
}
"""A universal step's `config`, by the headers that ask for the same."""

log = structlog.get_logger("farebox.calls")


class DataPlane:
    """Serves model calls; counts those in flight, so that a stop can wait for them."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._in_flight: set[asyncio.Task[object]] = set()
        self._draining = False

    async def handle(self, exchange: Exchange) -> None:
        """Response one exchange, whatever happens."""
        request_id = self._services.ids.log_id()
        target = target_of(exchange)
        form: Form = "openai" if target is None else target.form_for(exchange.headers)
        settings = self._services.settings
        sink = HttpSink(
            exchange,
            request_id,
            form,
            no_credit=settings.no_credit_status,
            comment_seconds=settings.stream_comment_ms / 1000,
        )
        task = asyncio.current_task()
        assert task is not None
        self._in_flight.add(task)
        watch = Watch(exchange.gone, settings.call_timeout_ms / 1000)
        try:
            await self._serve(exchange, target, sink, watch, request_id)
        except Problem as problem:
            sink.fail(problem)
            if not sink.call_known:  # one that became a call has its own line and row
                path, why = shown(exchange.path), problem.kind.name
                self._services.metrics.count(REFUSED, why)
                log.info("refused", request_id=request_id, path=path, error=why, client=exchange.client)
        except Interrupted:  # its client has gone while its body waited to be read
            self._services.metrics.count(CLIENTS_GONE)
        except DatabaseUnavailable as error:
            sink.fail(Problem(DATABASE_UNAVAILABLE, error.told, retry_after=RETRY_SECONDS))
            if not sink.call_known:
                self._services.metrics.count(REFUSED, DATABASE_UNAVAILABLE.name)
            log.error("database unavailable", request_id=request_id, why=str(error))  # noqa: TRY400 - no traceback
        except Exception:
            sink.fail(Problem(INTERNAL, f"Internal error. Request ID: {request_id}"))
            log.exception("call failed", request_id=request_id)
        finally:
            watch.close()
            sink.close()
            self._in_flight.discard(task)

    async def drain(self, grace_seconds: float) -> None:
        """Refuse further calls, those too whose bodies wait to be read, and wait for those in flight; those that take
        longer are cut and settled."""
        self._draining = True
        self._services.helpers.refuse_early()
        if self._in_flight:
            _, late = await asyncio.wait(self._in_flight, timeout=grace_seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=SETTLE_SECONDS)

    async def _serve(
        self, exchange: Exchange, target: Target | None, sink: HttpSink, watch: Watch, request_id: str
    ) -> None:
        services = self._services
        if self._draining:
            raise shutting_down()
        _check_database(services)
        if target is None:
            raise Problem(NO_ROUTE, "No such path: see docs/api.md for the URLs of model calls.")
        if exchange.method == "GET" and "websocket" in (exchange.headers.get("upgrade") or "").lower():
            raise Problem(NO_WEBSOCKET, "WebSockets are not supported: use HTTP, where streams are server-sent events.")
        if await self._cross_origin(exchange, target, sink):
            return
        credentials = read_credentials(exchange.headers, exchange.query)
        own_key = credentials.own_key and target.slug not in ("rest", "")
        gateway = await self._gateway(target, credentials.token, own_key=own_key)
        if exchange.method in ("GET", "HEAD") and target.slug in ("compat", "rest") and target.path in _MODEL_LISTS:
            sink.answer(200, [("content-type", "application/json")], model_list(services, target.account_id))
            return
        self._count(target, gateway)
        self._check_room(target.account_id)
        services.calls.begin(target.account_id)
        try:
            await self._admitted(exchange, target, gateway, sink, watch, request_id, own_key=own_key)
        finally:
            services.calls.end(target.account_id)

    async def _admitted(
        self,
        exchange: Exchange,
        target: Target,
        gateway: GatewayConfig,
        sink: HttpSink,
        watch: Watch,
        request_id: str,
        *,
        own_key: bool,
    ) -> None:
        """A call that may be made: read its body and serve it."""
        services = self._services
        lease = services.held.lease(target.account_id)
        exchange.hold(lease)
        sink.lease = lease
        if not own_key:
            await check_credit(services, exchange, target.account_id, target.slug, target.path)
        body = await body_of(services, exchange, watch, lease, any_coding=own_key)
        if body is None:
            services.metrics.count(CLIENTS_GONE)
            return
        asked = ProxyRequest(
            log_id=request_id,
            account_id=target.account_id,
            gateway_id=target.gateway_id,
            gateway=gateway,
            slug=target.slug,
            path=target.path,
            query=exchange.query,
            method=exchange.method,
            headers=exchange.headers,
            body=body.content,
            watch=watch,
            own_key=own_key,
            coded=body.coded,
            client=exchange.client,
        )
        if target.slug == "":
            if isinstance(body.content, bytes):
                lease.take(len(body.content))  # a step's body is a copy
            await self._universal(asked, sink, watch)
        else:
            call = await _call(services, asked)
            del asked, body  # the call has it, or another in its place
            sink.of(call)
            await serve_call(services, call, sink, watch)

    async def _gateway(self, target: Target, token: str | None, *, own_key: bool) -> GatewayConfig:
        """The gateway, if the caller may use it. Only a gateway with authentication off serves callers without a token,
        and those only on their own key. Raises Problem."""
        configuration = self._services.configuration
        if token is None and own_key:
            gateway = await configuration.gateway(target.account_id, target.gateway_id, create=False)
            if gateway is not None and not gateway.authentication:
                return gateway
        await authorize_run(token, target.account_id, configuration)
        gateway = await configuration.gateway(target.account_id, target.gateway_id)
        if gateway is None:
            raise Problem(GATEWAY_UNKNOWN, f"There is no gateway {target.gateway_id[:64]!r} on this account.")
        return gateway

    async def _cross_origin(self, exchange: Exchange, target: Target, sink: HttpSink) -> bool:
        """Where a page of an origin that the gateway lets in is calling, let it read the answers. Whether this was the
        browser's question in advance, and has been answered."""
        origin = exchange.headers.get("origin")
        if origin is None:
            return False
        gateway = await self._services.configuration.gateway(target.account_id, target.gateway_id, create=False)
        if gateway is None or not cross_origin.allowed(gateway.cors_origins, origin):
            return False
        sink.add(cross_origin.readable(origin))
        if exchange.method != "OPTIONS" or exchange.headers.get("access-control-request-method") is None:
            return False
        sink.answer(204, cross_origin.preflight(exchange.headers), b"")
        return True

    def _check_room(self, account_id: str) -> None:
        """Raises Problem where the account may have no further call in flight."""
        calls = self._services.calls
        full = calls.full(account_id)
        if full == "account":
            raise Problem(
                ACCOUNT_CALLS_FULL,
                f"The account has {calls.account_max} calls in flight, as many as it may. Nothing was charged.",
                retry_after=1,
            )
        if full == "process":
            raise Problem(
                TOO_MANY_CALLS,
                "The server has as many calls in flight as it takes, and this account has its fair part of what is "
                "left. Nothing was charged.",
                retry_after=1,
            )

    def _count(self, target: Target, gateway: GatewayConfig) -> None:
        limit, seconds = gateway.rate_limiting_limit, gateway.rate_limiting_interval
        if not limit or not seconds:
            return
        wait = self._services.gateway_rates.admit(
            (target.account_id, target.gateway_id),
            limit,
            seconds,
            sliding=gateway.rate_limiting_technique == "sliding",
            now_ms=self._services.clock.now_ms(),
        )
        if wait is not None:
            raise Problem(RATE_LIMITED, "Rate limited", retry_after=wait)

    async def _universal(self, asked: ProxyRequest, sink: HttpSink, watch: Watch) -> None:
        """Try the steps in order; the first that the provider answers without an error is the answer."""
        if asked.method != "POST":
            raise Problem(NO_ROUTE, "The universal endpoint accepts only POST.")
        steps = await take_apart(self._services, watch, asked.account_id, read_steps, asked.body)
        for number, step in enumerate(steps):
            last = number == len(steps) - 1
            try:
                call = await _step_call(self._services, asked, step, number)
                sink.of(call)
                if await serve_call(self._services, call, sink, watch, last=last):
                    return
            except Problem as problem:
                if last or problem.kind not in _NEXT_STEP:
                    raise


def _check_database(services: Services) -> None:
    """While the database is away no call is begun, not even on the caller's own key: whether its token still stands
    cannot be known. Raises Problem."""
    try:
        services.database.check()
    except DatabaseUnavailable as error:
        raise Problem(DATABASE_UNAVAILABLE, error.told, retry_after=RETRY_SECONDS) from error


async def _call(services: Services, asked: ProxyRequest) -> Call:
    if asked.slug not in ("compat", "rest"):
        return await native_call(services, asked)
    paths = _REST_PATHS if asked.slug == "rest" else _COMPAT_PATHS
    path = paths.get(asked.path.removeprefix("v1/"))
    if asked.method != "POST" or path is None:
        raise Problem(NO_ROUTE, f"There is no {asked.method} {asked.path[:100]} here.")
    return await compat_call(services, replace(asked, path=path))


async def _step_call(services: Services, asked: ProxyRequest, step: Step, number: int) -> Call:
    """A step has its own headers and key; our token and options come with the request."""
    options = _options(asked.headers) | _configured(step)
    headers = StepHeaders(
        {**options, "content-type": "application/json", **step.headers}, services.settings.header_limit_bytes
    )
    path, query = _endpoint(step)
    of_step = replace(
        asked,
        log_id=asked.log_id if number == 0 else services.ids.log_id(),
        slug=step.provider,
        path=path,
        query=query,
        headers=headers,
        body=b"{}" if step.query is None else part_of(asked.body, *step.query),
        own_key=read_credentials(headers, query).own_key,
        step=number,
    )
    if step.provider == "compat":
        return await _call(services, of_step)
    return await native_call(services, of_step)


def _endpoint(step: Step) -> tuple[str, str]:
    """Path and query of a step, as if they had come in a URL. Raises Problem (INVALID_REQUEST)."""
    try:
        target = f"/{step.endpoint.lstrip('/')}".encode("ascii")
        if not _is_target(target):
            raise ValueError("it contains characters that are not allowed in a URL")
        path, query = split_target(target, "POST")
    except ValueError as error:
        raise Problem(INVALID_REQUEST, f"The endpoint {step.endpoint[:64]!r} of a step is not a URL path.") from error
    return tidy_path(path).lstrip("/"), query


def _options(headers: RequestHeaders) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith("cf-aig-") or name == "user-agent"}


def _configured(step: Step) -> dict[str, str]:
    return {header: str(step.config[name]) for name, header in _STEP_OPTIONS.items() if name in step.config}
