"""A dynamic route as steps: the models that a request reaches along it, one after the other fails."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from farebox.calendar import seconds_until
from farebox.calls.model import Call
from farebox.calls.spending.rules import ROUTE_SCOPE
from farebox.dynamic_routes.conditions import MISSING, Lookup
from farebox.dynamic_routes.elements import Edge, Limit, Model, Rate
from farebox.dynamic_routes.graph import Graph, Stop, balanced_graph, key_field
from farebox.errors import (
    INVALID_REQUEST,
    RATE_LIMITED,
    ROUTE_ENDED,
    ROUTE_UNKNOWN,
    Problem,
)
from farebox.gateway import SpendRule
from farebox.http.auto_steps import auto_steps
from farebox.http.build_call import compat_call
from farebox.http.metadata import metadata_of
from farebox.http.parse_body import parse_body
from farebox.http.proxy_request import ProxyRequest, RouteName
from farebox.http.route_refusals import REFUSED
from farebox.http.steps import OF_ONE_STEP, Steps, common_trace, no_provider
from farebox.providers.reading import AUTO_MODEL, ROUTE_PREFIX, read_fields
from farebox.quoting import quoted
from farebox.runtime.services import Services

_PATH: Final = "chat/completions"


async def named_steps(services: Services, request: ProxyRequest, named: RouteName) -> Steps:
    """The steps of a request to a dynamic route, or to a model alias. Raises Problem."""
    if named.name == AUTO_MODEL:
        return await auto_steps(services, request, named.path)
    if not named.is_alias:
        return await route_steps(services, request, named.name)
    graph = await services.configuration.alias(request.account_id, request.gateway_id, named.name)
    if graph is None:
        raise Problem(INVALID_REQUEST, no_provider(named.name))
    if request.own_key:
        message = (
            "A model alias chooses the providers, so the call cannot use a provider key of the caller's: leave it out."
        )
        raise Problem(INVALID_REQUEST, message)
    graph = balanced_graph(graph, services.ids.chance)
    return _RouteSteps(services, replace(request, path=named.path), named.name, "", graph, _lookup(request, {}))


async def route_steps(services: Services, request: ProxyRequest, name: str) -> Steps:
    """The steps of a request to this route. Raises Problem: ROUTE_UNKNOWN; INVALID_REQUEST if it contains a provider
    key of the caller's own; ROUTE_ENDED or RATE_LIMITED if the route leads to no model."""
    route = await services.configuration.route(request.account_id, request.gateway_id, name)
    if route is None:
        message = f"The gateway has no dynamic route {quoted(name)} with a deployed version that can be called."
        raise Problem(ROUTE_UNKNOWN, message)
    if request.own_key:
        message = (
            "A dynamic route chooses the provider, so the call cannot use a provider key of the caller's: leave it out."
        )
        raise Problem(INVALID_REQUEST, message)
    route_id, graph = route
    body: Mapping[str, Any] = {}
    if graph.body_fields:
        body = await parse_body(
            services, request.watch, request.account_id, read_fields, request.body, graph.body_fields
        )
    return _RouteSteps(services, replace(request, path=_PATH), name, route_id, graph, _lookup(request, body))


class _RouteSteps:
    """The steps of one request, with the state of its path through the route."""

    def __init__(
        self, services: Services, request: ProxyRequest, name: str, route_id: str, graph: Graph, lookup: Lookup
    ) -> None:
        """Raises Problem if the route leads to no model."""
        self._services = services
        self._asked = request
        self._name = name
        self._route_id = route_id
        self._graph = graph
        self._lookup = lookup
        self._number = 0
        self._costs: list[Rate] = []
        """The cost limits that the request has passed. The ledger decides whether it fits."""
        self._counted: set[str] = set()
        """The rate limits that have admitted this request: it counts only once, even if it passes them again."""
        first = self._next(graph.first)
        if isinstance(first, Stop):
            raise _stopped(name, first, services.clock.now_ms())
        self._model = first

    def more(self) -> bool:
        return self._take(self._model.outputs.fallback)

    def after(self, problem: Problem) -> bool:
        refused = None if problem.shortage is None else self._refusing(problem.shortage.rule_id)
        if refused is None:
            return problem.kind in (*OF_ONE_STEP, *REFUSED) and self.more()
        del self._costs[self._costs.index(refused) :]
        return self._take(refused.outputs.fallback)

    def _refusing(self, rule_id: str | None) -> Rate | None:
        return next((limit for limit in self._costs if self._rule_id(limit) == rule_id), None)

    def _take(self, fallback: Edge | None) -> bool:
        """Follow this edge. Returns whether it leads to a model, which is then the next step."""
        found = None if fallback is None else self._next(fallback.element_id)
        if not isinstance(found, Model):
            return False
        self._model = found
        self._number += 1
        return True

    async def call(self) -> Call:
        services, request, choice = self._services, self._asked, self._model.properties
        of_step = replace(
            request,
            log_id=request.log_id if self._number == 0 else services.ids.log_id(),
            known={},
            step=self._number,
            trace=common_trace(request),
        )
        call = await compat_call(services, of_step, f"{choice.provider}/{choice.model}")
        assert not isinstance(call, RouteName)
        timeout = max(choice.timeout, services.settings.request_timeout_min_ms) if choice.timeout else None
        return replace(
            call,
            route=self._name,
            route_limits=tuple(map(self._limit, self._costs)),
            attempts_max=choice.retries + 1,
            request_timeout_ms=timeout or call.request_timeout_ms,
        )

    def _next(self, element_id: str) -> Model | Stop:
        return self._graph.next_model(element_id, self._lookup, self._services.ids.chance, self._count)

    def _count(self, element: Rate, _: Lookup) -> int | None:
        """Count the request against a rate limit of the route, independent of the deployed version."""
        limit = element.properties
        if limit.limit_type == "cost":
            self._costs.append(element)
            return None
        if element.id in self._counted:
            return None
        opens_at = self._services.route_rates.admit(
            (self._asked.account_id, f"{self._route_id}/{element.id}/{self._value(limit)}"),
            int(limit.limit),
            limit.window,
            sliding=limit.technique == "sliding",
            now_ms=self._services.clock.now_ms(),
        )
        if opens_at is None:
            self._counted.add(element.id)
        return opens_at

    def _value(self, limit: Limit) -> str:
        """A name for the value that the limit counts separately."""
        field = key_field(limit)
        return _digest(MISSING if field is None else self._lookup(field))

    def _rule_id(self, element: Rate) -> str:
        return f"{ROUTE_PREFIX}{self._name}/{element.id}"

    def _limit(self, element: Rate) -> tuple[SpendRule, str]:
        """A cost limit in the form of the ledger's budgets, independent of the route's deployed version."""
        limit = element.properties
        rule = SpendRule(
            id=self._rule_id(element),
            limit=limit.limit,
            limit_type="cost",
            window=limit.window,
            technique=limit.technique,
        )
        scope = f"{ROUTE_SCOPE}{self._route_id}/{quote(element.id, safe='')}/{limit.window}{limit.technique[0]}"
        return rule, f"{scope}/{self._value(limit)}"


def _stopped(name: str, stop: Stop, now: int) -> Problem:
    if stop.opens_at is not None:
        wait, words = seconds_until(stop.opens_at, now), f"Rate limited by the dynamic route {quoted(name)}."
        return Problem(RATE_LIMITED, words, retry_after=wait, resets_at=stop.opens_at)
    return Problem(
        ROUTE_ENDED,
        f"The dynamic route {quoted(name)} ends at its element {quoted(stop.element_id)}, and calls no model.",
    )


def _digest(value: Any) -> str:
    """A name for the value, of bounded length; all requests that lack the field are counted together."""
    if value is MISSING or value is None:
        return ""
    return hashlib.blake2b(msgspec.json.encode(value), digest_size=12).hexdigest()


def _lookup(request: ProxyRequest, body: Mapping[str, Any]) -> Lookup:
    metadata = metadata_of(request.headers).entries or {}

    def lookup(field: str) -> Any:
        source, _, name = field.partition(".")
        if source == "metadata":
            return metadata.get(name, MISSING)
        if source == "body":
            return body.get(name, MISSING)
        found = request.headers.get(name)
        return MISSING if found is None else found

    return lookup
