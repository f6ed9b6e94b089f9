"""Requests that are tried in steps: the universal endpoint's list, and the models along a dynamic route.

The first step that the provider answers without an error provides the response. Each step has its own log row and
receipt, and only answered steps are charged.
"""

import re
from typing import Final, Protocol

from msgspec.structs import replace

from farebox.calls.key_selection import choose_key
from farebox.calls.model import Call, TraceContext
from farebox.calls.watch import Watch
from farebox.errors import (
    ADDRESS_REFUSED,
    INVALID_REQUEST,
    KEY_RATE_LIMITED,
    KEY_UNKNOWN,
    KEY_UNREADABLE,
    MODEL_UNPRICED,
    NO_ROUTE,
    NOT_METERED,
    OWN_KEY_REQUIRED,
    POLICY_DENIED,
    PROVIDER_OFF,
    PROVIDER_UNAVAILABLE,
    PROVIDER_UNKNOWN,
    THREAD_REFUSED,
    UPSTREAM_INVALID,
    UPSTREAM_TIMEOUT,
    UPSTREAM_UNREACHABLE,
    ZDR_UNAVAILABLE,
    Problem,
)
from farebox.http.build_call import compat_call, native_call
from farebox.http.caching import OLD_NAMES, answered_from_cache, serve_missed
from farebox.http.credentials import StepHeaders, read_credentials
from farebox.http.exchange import RequestHeaders
from farebox.http.metadata import END_USER
from farebox.http.parse_body import parse_body
from farebox.http.payer import switch
from farebox.http.proxy_request import ProxyRequest, RouteName
from farebox.http.router import tidy_path
from farebox.http.server.headers import split_target
from farebox.http.sink import HttpSink
from farebox.http.trace_context import trace_of
from farebox.memory_files import part_of
from farebox.pricing.receipt import ReceiptAttempt
from farebox.providers.reading import AUTO_MODEL, Step, read_steps
from farebox.quoting import quoted
from farebox.runtime.services import Services

_is_target = re.compile(rb"[!-~]*").fullmatch
_COMPAT_PATHS: Final = {"chat/completions": "chat/completions", "embeddings": "embeddings"}
_REST_PATHS: Final = _COMPAT_PATHS | {
    "responses": "responses",
    "responses/compact": "responses/compact",
    "messages": "v1/messages",
}
"""Paths of the common formats, without the `v1/` that SDKs may add or omit depending on their base URL."""
_BINDING: Final = ("cf-aig-no-wholesale", "cf-aig-zdr")
"""Headers that, on the request, apply to every step; a step can only be stricter."""
OF_ONE_STEP: Final = (
    PROVIDER_UNAVAILABLE,
    UPSTREAM_UNREACHABLE,
    UPSTREAM_TIMEOUT,
    UPSTREAM_INVALID,
    OWN_KEY_REQUIRED,
    MODEL_UNPRICED,
    PROVIDER_UNKNOWN,
    PROVIDER_OFF,
    NOT_METERED,
    THREAD_REFUSED,
    KEY_UNKNOWN,
    KEY_UNREADABLE,
    ZDR_UNAVAILABLE,
    ADDRESS_REFUSED,
    KEY_RATE_LIMITED,
    POLICY_DENIED,
)
"""Problems that concern only one step (such as a policy about its model): the next step may succeed."""
_STEP_OPTIONS: Final = {
    "requestTimeout": "cf-aig-request-timeout",
    "maxAttempts": "cf-aig-max-attempts",
    "retryDelay": "cf-aig-retry-delay",
    "backoff": "cf-aig-backoff",
    "cacheTtl": "cf-aig-cache-ttl",
    "skipCache": "cf-aig-skip-cache",
    "cacheKey": "cf-aig-cache-key",
}
"""Fields of a universal step's `config`, with the equivalent headers."""


class Steps(Protocol):
    """The attempts at a request, one after the other. The first step is the current one at the start."""

    async def call(self) -> Call:
        """The call of the current step. Raises Problem."""
        ...

    def more(self) -> bool:
        """The current step has failed. Returns whether there is another one, which is then the current one."""
        ...

    def after(self, problem: Problem) -> bool:
        """The same if Farebox has no response to pass on."""
        ...


async def serve_steps(services: Services, steps: Steps, sink: HttpSink, watch: Watch) -> None:
    """Try the steps in order. Raises the Problem of the last one."""
    trail: list[ReceiptAttempt] = []
    while True:
        try:
            call = replace(await steps.call(), trail=trail)
            if call.cache is not None and await answered_from_cache(services, call, sink, watch):
                return
            call = choose_key(services, call)
            sink.of(call)
            if await serve_missed(services, call, sink, watch, steps.more):
                return
        except Problem as problem:
            if not steps.after(problem):
                raise


async def universal_steps(services: Services, request: ProxyRequest) -> Steps:
    """The steps of the universal endpoint. Raises Problem."""
    if request.method != "POST":
        raise Problem(NO_ROUTE, "The universal endpoint accepts only POST.")
    steps = await parse_body(services, request.watch, request.account_id, read_steps, request.body)
    return _UniversalSteps(services, request, steps)


class _UniversalSteps:
    """The steps listed in a request to the universal endpoint."""

    def __init__(self, services: Services, request: ProxyRequest, steps: list[Step]) -> None:
        self._services = services
        self._asked = request
        self._steps = steps
        self._number = 0

    def more(self) -> bool:
        if self._number + 1 >= len(self._steps):
            return False
        self._number += 1
        return True

    def after(self, problem: Problem) -> bool:
        return problem.kind in OF_ONE_STEP and self.more()

    async def call(self) -> Call:
        """The call of a step. A step has its own headers and provider key; our token and options are the request's."""
        services, request, number = self._services, self._asked, self._number
        step = self._steps[number]
        options = _options(request.headers) | _configured(step)
        bound = {name: "true" for name in _BINDING if switch(name, request.headers, default=False)}
        own = {name.lower() if name.isascii() else name: value for name, value in step.headers.items()}
        headers = StepHeaders(
            {**options, "content-type": "application/json", **own, **bound},
            services.settings.header_limit_bytes,
        )
        path, query = _endpoint(step)
        of_step = replace(
            request,
            log_id=request.log_id if number == 0 else services.ids.log_id(),
            slug=step.provider,
            path=path,
            query=query,
            headers=headers,
            body=b"{}" if step.query is None else part_of(request.body, *step.query),
            own_key=read_credentials(headers, query).own_key,
            known={},
            step=number,
            trace=common_trace(request),
        )
        if step.provider != "compat":
            return await native_call(services, of_step)
        call = await common_call(services, of_step)
        if isinstance(call, RouteName):
            message = "A step cannot be a dynamic route or a model alias: call that by itself."
            raise Problem(INVALID_REQUEST, message if not call.is_alias else no_provider(call.name))
        return call


async def common_call(services: Services, request: ProxyRequest) -> Call | RouteName:
    """A call in a common format, or the name of the dynamic route that it asks for. Raises Problem."""
    paths = _REST_PATHS if request.slug == "rest" else _COMPAT_PATHS
    path = paths.get(request.path.removeprefix("v1/"))
    if request.method != "POST" or path is None:
        raise Problem(NO_ROUTE, f"Unknown path: {request.method} {request.path[:100]}")
    call = await compat_call(services, replace(request, path=path))
    routed = isinstance(call, RouteName) and not call.is_alias and call.name != AUTO_MODEL
    if routed and path != "chat/completions":
        raise Problem(INVALID_REQUEST, "Dynamic routes are called on a path that ends in chat/completions.")
    return call


def common_trace(request: ProxyRequest) -> TraceContext | None:
    """The trace of all steps of a request: if its headers name none, that of the first step. None if no spans are
    sent."""
    if request.gateway.otel is None:
        return None
    trace = trace_of(request.headers)
    return trace if trace.trace_id else replace(trace, trace_id=request.log_id.replace("-", ""))


def no_provider(name: str) -> str:
    """What is wrong with a model name that neither contains a provider nor is an alias."""
    return f"The model {quoted(name)} names no provider: write it as `provider/model`."


def _endpoint(step: Step) -> tuple[str, str]:
    """Path and query of a step, as if they had been in a URL. Raises Problem (INVALID_REQUEST)."""
    try:
        target = f"/{step.endpoint.lstrip('/')}".encode("ascii")
        if not _is_target(target):
            raise ValueError("it contains characters that are not allowed in a URL")
        path, query = split_target(target, "POST")
    except ValueError as error:
        raise Problem(INVALID_REQUEST, f"The endpoint {quoted(step.endpoint)} of a step is not a URL path.") from error
    return tidy_path(path).lstrip("/"), query


def _options(headers: RequestHeaders) -> dict[str, str]:
    passed = ("user-agent", END_USER, *OLD_NAMES)
    return {name: value for name, value in headers.items() if name.startswith("cf-aig-") or name in passed}


def _configured(step: Step) -> dict[str, str]:
    return {header: str(step.config[name]) for name, header in _STEP_OPTIONS.items() if name in step.config}
