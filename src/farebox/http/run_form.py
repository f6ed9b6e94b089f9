"""Calls to `/ai/run`: models of Workers AI in their own format, and others with the fields of their chat format.

As at Cloudflare, Anthropic's models take the fields of its Messages API, all others those of OpenAI's chat completions.
The response is wrapped in Cloudflare's envelope; a stream passes as the provider sends it.
"""

from msgspec.structs import replace

from farebox.calls.model import Call
from farebox.calls.near_models import near_models
from farebox.calls.unlisted import OPENROUTER
from farebox.errors import MODEL_NOT_FOUND, NO_ROUTE, OWN_KEY_REQUIRED, PROVIDER_UNKNOWN, Problem
from farebox.http.build_call import compat_call, native_call
from farebox.http.parse_body import parse_body
from farebox.http.proxy_request import ProxyRequest, RouteName
from farebox.memory_files import part_of
from farebox.providers.catalogue import provider_of
from farebox.providers.naming import compat_model, is_custom
from farebox.providers.reading import read_run
from farebox.runtime.services import Services


async def run_call(services: Services, request: ProxyRequest) -> Call | RouteName:
    """The call, or the name of the dynamic route. Raises Problem: NO_ROUTE, MODEL_NOT_FOUND, and those of other
    calls."""
    if request.method != "POST":
        raise Problem(NO_ROUTE, f"Unknown path: {request.method} /ai/run")
    model, body = request.path, request.body
    if not model:
        run = await parse_body(services, request.watch, request.account_id, read_run, body)
        model, body = run.model, part_of(body, *run.input)
    try:
        if model.startswith("@"):
            return await native_call(
                services, replace(request, slug="workers-ai", path=f"run/{model}", body=body, known={})
            )
        call = await compat_call(services, replace(request, slug="rest", path=_path(model), body=body), model)
    except Problem as problem:
        _check_model(services, request.account_id, model, problem)
        raise
    return call if isinstance(call, RouteName) else replace(call, enveloped=True)


def _path(model: str) -> str:
    """The common format of a model's input. Raises Problem (MODEL_NOT_FOUND)."""
    author, _, name = model.partition("/")
    provider = provider_of(author)
    if not name or (provider is None and not is_custom(author)):
        raise _not_found(model)
    return "v1/messages" if provider is not None and provider.slug == "anthropic" else "chat/completions"


def _check_model(services: Services, account_id: str, model: str, problem: Problem) -> None:
    """Raises MODEL_NOT_FOUND if the model does not exist, which is then the actual cause: a key for the provider would
    not help."""
    if problem.kind is PROVIDER_UNKNOWN:
        raise _not_found(model) from problem
    if problem.kind is not OWN_KEY_REQUIRED:
        return
    provider, name = compat_model(model)
    now = services.clock.now_ms()
    if provider != OPENROUTER and services.configuration.prices.find(account_id, provider, name, now) is None:
        raise _not_found(model, near_models(services, account_id, provider, name)) from problem


def _not_found(model: str, near: str = "") -> Problem:
    return Problem(MODEL_NOT_FOUND, f"Model not found: {model[:100]}{near and '.' + near}")
