"""The auto router: the cheapest of the models that are allowed and able to answer a request; if it fails, the next
one."""

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from farebox.calls.model import Call, Routing
from farebox.dynamic_routes.graph import targets_of
from farebox.errors import AUTO_UNAVAILABLE, INVALID_REQUEST, Problem
from farebox.http.build_call import compat_call
from farebox.http.parse_body import parse_body
from farebox.http.payer import access_of, flag, payer_of
from farebox.http.proxy_request import ProxyRequest, RouteName
from farebox.http.route_refusals import REFUSED
from farebox.http.steps import OF_ONE_STEP, Steps, common_trace
from farebox.model import in_models
from farebox.pricing.estimate import estimate
from farebox.pricing.model import Markup, ModelPrice
from farebox.providers.capabilities import Candidate, candidates_of, capabilities, routed_name, slug_of
from farebox.providers.catalogue import format_of
from farebox.providers.provider import Plain
from farebox.providers.reading import AUTO_MODEL, common_path
from farebox.providers.requirements import Requirements, read_requirements
from farebox.quoting import quoted
from farebox.runtime.services import Services

ALIAS: Final = "auto"
"""The model alias whose targets are the candidates, if the gateway or the account has one."""
TRIES_MAX: Final = 5
LISTED_MAX, PATTERNS_MAX = 50, 10
"""Maximum entries in a request's list, and how many of them may contain a `*`: each of those is compared with all
models of a provider."""
_OUTPUT: Final = 1_000
"""Output tokens assumed when models are compared; fewer if the request allows fewer."""
_BYTES_PER_TOKEN: Final = 4
CHEAPEST, ONLY, PINNED, FALLBACK = (
    "cost_optimal_within_pool",
    "forced_by_candidate_pool",
    "pinned_by_turn",
    "fallback_candidate_unavailable",
)

NOTHING_TO_CHOOSE: Final = (
    "The auto router has no models to choose from: name some in the header cf-aig-allowed-models or as targets of the "
    "model alias `auto`, or ask the operator to set FAREBOX_AUTO_MODELS. With "
    "cf-aig-allowed-providers, name models of these providers."
)


class _Choice(msgspec.Struct, frozen=True):
    slug: str
    model: str
    nanos: int
    """The cost of a response of the usual length."""

    @property
    def name(self) -> str:
        return f"{self.slug}/{self.model}"


async def auto_steps(services: Services, request: ProxyRequest, path: str) -> Steps:
    """The steps of a request to the auto router, in the common format of this path. Raises Problem."""
    request = replace(request, path=path)
    if request.own_key:
        message = (
            "The auto router chooses the provider, so the call cannot use a provider key of the caller's: leave it out."
        )
        raise Problem(INVALID_REQUEST, message)
    needs = await parse_body(
        services,
        request.watch,
        request.account_id,
        read_requirements,
        request.body,
        path,
        _header(request, "content-type"),
    )
    choices = _choices(services, request, needs, await _pool(services, request))
    turn = _turn(request, needs)
    pinned = None if turn is None else services.turn_models.find(request.account_id, turn)
    first = next((choice for choice in choices if choice.name == pinned), None)
    reason = ONLY if len(choices) == 1 else CHEAPEST
    if first is not None:
        choices, reason = [first, *(choice for choice in choices if choice is not first)], PINNED
    return _AutoSteps(services, request, choices[:TRIES_MAX], reason, turn)


class _AutoSteps:
    """The models to try, the cheapest first."""

    def __init__(
        self, services: Services, request: ProxyRequest, choices: list[_Choice], reason: str, turn: str | None
    ) -> None:
        self._services = services
        self._asked = request
        self._choices = choices
        self._reason = reason
        self._turn = turn
        self._number = 0

    def more(self) -> bool:
        if self._number + 1 >= len(self._choices):
            if self._turn is not None:  # none has answered: the turn is not bound to the one that was tried last
                self._services.turn_models.forget(self._asked.account_id, self._turn)
            return False
        self._number += 1
        self._reason = FALLBACK
        return True

    def after(self, problem: Problem) -> bool:
        return problem.kind in (*OF_ONE_STEP, *REFUSED) and self.more()

    async def call(self) -> Call:
        services, request, choice = self._services, self._asked, self._choices[self._number]
        of_step = replace(
            request,
            log_id=request.log_id if self._number == 0 else services.ids.log_id(),
            known={},
            step=self._number,
            trace=common_trace(request),
        )
        call = await compat_call(services, of_step, choice.name)
        assert not isinstance(call, RouteName)
        if self._turn is not None:
            services.turn_models.remember(request.account_id, self._turn, choice.name)
        routing = Routing(routed_name(choice.slug, choice.model), self._reason, request.log_id)
        return replace(call, route=f"{AUTO_MODEL}/{self._reason}", routing=routing)


async def _pool(services: Services, request: ProxyRequest) -> Sequence[Candidate]:
    """The candidates: those listed in the request, those of the account's alias, or the operator's. Raises Problem."""
    asked = _header(request, "cf-aig-allowed-models")
    if not asked:
        graph = await services.configuration.alias(request.account_id, request.gateway_id, ALIAS)
        return services.auto_models if graph is None else [Candidate(target) for target in targets_of(graph)]
    try:
        if "=" in asked:
            raise ValueError("expected names of models, joined by commas")
        pool = candidates_of(asked)
        if len(pool) > LISTED_MAX or sum(candidate.is_pattern for candidate in pool) > PATTERNS_MAX:
            raise ValueError(f"at most {LISTED_MAX} entries, {PATTERNS_MAX} of them with *")
    except ValueError as error:
        raise Problem(INVALID_REQUEST, f"cf-aig-allowed-models: {str(error).removesuffix('.')}.") from error
    for candidate in pool:
        if not _matching(services, request, candidate):
            raise Problem(INVALID_REQUEST, f"cf-aig-allowed-models: {quoted(candidate.pattern)} matches no model.")
    return pool


def _choices(
    services: Services, request: ProxyRequest, needs: Requirements, pool: Sequence[Candidate]
) -> list[_Choice]:
    """The candidates that may be called and support the request, cheapest first. Raises Problem (AUTO_UNAVAILABLE)."""
    providers, token = _providers(request), request.token
    found: dict[str, _Choice] = {}
    seen = 0
    for candidate in pool:
        if providers is not None and candidate.slug not in providers:
            continue
        for model in _matching(services, request, candidate):
            seen += 1
            if in_models(None if token is None else token.models, candidate.slug, model):
                choice = _choice(services, request, needs, candidate, model)
                if choice is not None:
                    found.setdefault(choice.name, choice)
    if found:
        return sorted(found.values(), key=lambda choice: (choice.nanos, choice.name))
    if seen == 0:
        raise Problem(AUTO_UNAVAILABLE, NOTHING_TO_CHOOSE)
    wanted = ", ".join(sorted(needs.kinds)) or "text"
    raise Problem(
        AUTO_UNAVAILABLE, f"Of the {seen} models that the auto router may choose from, none can take this: {wanted}."
    )


def _matching(services: Services, request: ProxyRequest, candidate: Candidate) -> list[str]:
    """The names of the candidate's models that have a price."""
    slug, at, prices = candidate.slug, services.clock.now_ms(), services.configuration.prices
    access = request.own.custom.get(slug)
    if access is not None and access.custom is not None:
        names = access.custom.costs.models if candidate.is_pattern else [candidate.model]
    elif candidate.is_pattern:
        names = [name for name, _ in prices.priced(request.account_id, slug, at)]
    else:
        return [candidate.model] if prices.find(request.account_id, slug, candidate.model, at) else []
    return [name for name in names if candidate.matches(name)]


def _choice(
    services: Services, request: ProxyRequest, needs: Requirements, candidate: Candidate, model: str
) -> _Choice | None:
    """None if the model does not support the request, or the account may not call it through this gateway."""
    slug = candidate.slug
    if not needs.kinds <= (capabilities(slug, model) if candidate.can is None else candidate.can):
        return None
    try:
        access = access_of(services, request.own, slug)
        payer = payer_of(services, access, request.own, request.gateway, request.headers, own_key=False)
    except Problem:
        return None
    there = common_path(access.provider, request.path)
    if there is None or isinstance(format_of(access.provider, "POST", there), Plain):
        return None
    at = services.clock.now_ms()
    prices = services.configuration.prices
    custom = None if access.custom is None else access.custom.costs
    price = prices.find(request.account_id, slug, model, at) if custom is None else custom.find(model)
    if price is None:
        return None
    markup = Markup() if payer.own else prices.markup(request.account_id, slug, model, at)
    return _priced(needs, price, markup, slug, model)


def _priced(needs: Requirements, price: ModelPrice, markup: Markup, slug: str, model: str) -> _Choice | None:
    demand = needs.demand
    tokens = demand.text_bytes // _BYTES_PER_TOKEN
    if price.context_window is not None and tokens + (demand.output_max or 0) > price.context_window:
        return None
    output = min(demand.output_max or _OUTPUT, _OUTPUT)
    usual = replace(demand, output_max=output, unseen=(), further_models=())
    return _Choice(slug, model, estimate(usual, price, markup, exact_input_tokens=tokens).amount)


def _providers(request: ProxyRequest) -> frozenset[str] | None:
    """The providers that the request allows; None for all. Raises Problem (INVALID_REQUEST)."""
    text = _header(request, "cf-aig-allowed-providers")
    try:
        return frozenset(slug_of(part.strip()) for part in text.split(",") if part.strip()) if text else None
    except ValueError as error:
        raise Problem(INVALID_REQUEST, f"cf-aig-allowed-providers: {error}.") from error


def _turn(request: ProxyRequest, needs: Requirements) -> str | None:
    """A name for the conversation's turn; None if a model is chosen for each request."""
    session = _header(request, "cf-aig-session-id")
    if not session or flag(request.headers.get("cf-aig-no-session-affinity"), default=False):
        return None
    turn = _header(request, "cf-aig-turn-id") or needs.turn
    identity = "\0".join((request.gateway_id, session, turn))
    return hashlib.blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _header(request: ProxyRequest, name: str) -> str:
    return (request.headers.get(name) or "").strip()
