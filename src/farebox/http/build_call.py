"""From an HTTP request to a Call: which provider, which path, which format, which key, which options."""

from urllib.parse import urlencode

from msgspec.structs import replace

from farebox.calls.cache import is_cacheable, scope_of
from farebox.calls.model import CacheUse, Call
from farebox.errors import (
    INVALID_REQUEST,
    NOT_METERED,
    REQUEST_REFUSED,
    THREAD_REFUSED,
    Problem,
)
from farebox.http.caching import cache_use
from farebox.http.key_choices import key_choices, secrets_of
from farebox.http.metadata import custom_cost_of, end_user_of, metadata_of
from farebox.http.parse_body import parse_body, parse_here, parse_in_helper, unreadable
from farebox.http.payer import access_of, alias_of, flag
from farebox.http.proxy_request import ProxyRequest, RouteName
from farebox.http.resumable_uploads import upload_chunk, upload_start
from farebox.http.token_models import check_model, check_policies
from farebox.http.trace_context import trace_of
from farebox.http.upstream_endpoint import UpstreamEndpoint, endpoint_of
from farebox.memory_files import Body
from farebox.providers.audio.length import TooLong
from farebox.providers.catalogue import format_of, upstream_path
from farebox.providers.descriptions import GOOGLE
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, WireFormat
from farebox.providers.formats.bounds import is_light
from farebox.providers.formats.google_cache import GoogleCacheExtension
from farebox.providers.formats.videos import OpenAIRemix
from farebox.providers.naming import custom_path
from farebox.providers.objects import COUNT, ObjectCall, object_call, read_object
from farebox.providers.outline import reassemble
from farebox.providers.provider import Metering, Plain, Provider
from farebox.providers.reading import ParsedBody, Place, read_as, read_call, read_common, read_named
from farebox.quoting import quoted
from farebox.runtime.provider_access import ProviderAccess
from farebox.runtime.services import Services

_BACKOFFS = ("constant", "linear", "exponential")
_DIGITS_MAX = 12
COMMON = frozenset({"compat", "rest"})
"""URL segments that stand in place of a provider's slug if the body names the provider."""


def known_call(services: Services, request: ProxyRequest) -> Call | None:
    """The call of a request with the head of an earlier one and a small body, as most have, built without waiting; None
    if it must be built by `native_call` or `compat_call`. Raises Problem."""
    known = request.known.get(request.slug)
    if known is None or known.format is None or not (isinstance(request.body, bytes) and is_light(request.body)):
        return None
    if _by_model(request):
        return None
    use = known.cache
    if use is not None and not use.skip:
        recalled = services.response_cache.recall(known.account_id, use.scope, request.body)
        if recalled is not None:
            return _with_body(services, request, known, recalled.read, recalled.key)
    refused = None if known.own_key else services.refusals.get(known.provider)
    try:
        read = parse_here(read_as, known.format, request.body, known.place, refused, known.own_key)
    except TooLong:
        return None
    return _with_body(services, request, known, read)


async def native_call(services: Services, request: ProxyRequest) -> Call:
    """A call to a provider's own path. Raises Problem."""
    known = request.known.get(request.slug)
    if known is not None:
        read = await _read(services, request, known.format, known.place, own=known.own_key)
        return _with_body(services, request, known, read)
    access = access_of(services, request.own, request.slug)
    path = upstream_path(access.provider, request.path)
    metering = format_of(access.provider, request.method, path)
    endpoint = endpoint_of(services, request, access, metering, path)
    place = _place(request, access, metering, path)
    wire = None if isinstance(metering, Plain) else metering
    read = await _read(services, request, wire, place, own=endpoint.payer.own)
    kept = None if wire is not None or endpoint.payer.own else await _object(services, request, access, path)
    return _call(services, request, access, metering, path, endpoint, read, kept)


async def _object(services: Services, request: ProxyRequest, access: ProviderAccess, path: str) -> ObjectCall | None:
    """The stored provider object that the call is about, if it is about one. Raises Problem."""
    found = object_call(access.provider.objects, request.method, path)
    if request.method in ("GET", "HEAD"):
        return found
    if found is not None and (found.form, found.kind, found.does) == (GOOGLE, "file", "create"):
        if request.upload is not None:
            return upload_chunk(request, request.upload, found)
        found = upload_start(request, found)
    found = COUNT if found is None else found
    if (found.kind, found.does) == ("batch", "create"):
        _check_batch(request)
    content_type = _content_type(request)
    read = await parse_body(services, request.watch, request.account_id, read_object, request.body, found, content_type)
    return replace(read, size=max(read.size, found.size))


async def _read(
    services: Services, request: ProxyRequest, wire: WireFormat | None, place: Place, *, own: bool
) -> ParsedBody:
    """Read the body; `own`: the account pays the provider itself. Raises Problem."""
    if wire is None:
        return await _with_name(services, request, ParsedBody(None))
    return await _with_name(services, request, await _read_of(services, request, wire, place, own=own))


def _check_batch(request: ProxyRequest) -> None:
    """Raises Problem if the requests of a batch would have to be checked one by one."""
    limits, token = request.gateway.spend_limits, request.token
    why = (
        "an access token limited to certain models"
        if token is not None and token.models is not None
        else "policies"
        if request.policies is not None
        else "spend limits"
        if limits is not None and limits.enabled and limits.rules
        else "data loss prevention or guardrails"
        if request.gateway.screens
        else ""
    )
    if why:
        raise Problem(
            NOT_METERED, f"A batch cannot be started on the operator's key with {why}: use another gateway or token."
        )


def _by_model(request: ProxyRequest) -> bool:
    """Whether the token, or a policy, allows only certain models."""
    if request.policies is not None and request.policies.names_models:
        return True
    return request.token is not None and request.token.models is not None


async def _with_name(services: Services, request: ProxyRequest, read: ParsedBody) -> ParsedBody:
    """Add the name that the body gives its model, if a token or a policy allows only certain models. Raises Problem."""
    if not _by_model(request) or request.method in ("GET", "HEAD"):
        return read
    content_type = _content_type(request)
    named = await parse_body(services, request.watch, request.account_id, read_named, request.body, content_type)
    return replace(read, named=named)


async def _read_of(
    services: Services, request: ProxyRequest, wire: WireFormat, place: Place, *, own: bool
) -> ParsedBody:
    refused = None if own else services.refusals.get(place.slug)
    if isinstance(request.body, bytes) and is_light(request.body):
        try:
            return parse_here(read_as, wire, request.body, place, refused, own)
        except TooLong:
            pass
    return await parse_in_helper(
        services, request.watch, request.account_id, read_call, request.body, place, refused, own
    )


async def compat_call(services: Services, request: ProxyRequest, chosen: str = "") -> Call | RouteName:
    """A call in a common format whose body names `provider/model`: chat/completions, embeddings, responses, messages.
    `chosen` is called instead of what the body names. If the body names a dynamic route, its name is returned.

    Raises Problem.
    """
    place = Place("", request.method, request.path, _content_type(request))
    refusals, own_key, own = services.refusals, request.own_key, request.own.with_alias(alias_of(request.headers))
    found = await parse_body(
        services, request.watch, request.account_id, read_common, request.body, place, refusals, own_key, chosen, own
    )
    if found.route or found.alias:
        return RouteName(found.route or found.alias, request.path, is_alias=not found.route)
    read = await _with_name(services, request, found.read) if isinstance(found.read, ParsedBody) else found.read
    known = request.known.get(found.slug)
    if known is not None and isinstance(read, ParsedBody):
        return _with_body(services, request, known, read)
    access = access_of(services, request.own, found.slug)
    if read is None:
        raise Problem(INVALID_REQUEST, f"{access.provider.name} does not offer `{request.path}` in this form.")
    path = found.path if access.custom is None else custom_path(found.path, versioned=access.custom.versioned)
    metering = format_of(access.provider, request.method, path)
    endpoint = endpoint_of(services, request, access, metering, path)
    if isinstance(read, InvalidRequest):
        raise unreadable(read)
    return _call(services, request, access, metering, path, endpoint, read)


def socket_call(services: Services, request: ProxyRequest, access: ProviderAccess, metering: Metering) -> Call:
    """The call for a WebSocket at the provider's canonical path, whose messages are not read. Raises Problem."""
    endpoint = endpoint_of(services, request, access, metering, request.path)
    return _call(services, request, access, metering, request.path, endpoint, ParsedBody(None))


def turn_call(
    services: Services, request: ProxyRequest, session: Call, wire: WireFormat, parsed: ParsedRequest
) -> Call:
    """The call of one turn of a session; the request has the turn's ID, and as its body the message that requests the
    turn. Raises Problem if its model may not be called."""
    place = Place(session.place.slug, "POST", session.path, "application/json")
    known = replace(session, format=wire, place=place, content_type=place.content_type, models={})
    return _with_body(services, request, known, ParsedBody(_behind(session, parsed)))


def _behind(session: Call, parsed: ParsedRequest) -> ParsedRequest:
    return _of_model(parsed, session.models[parsed.model]) if parsed.model in session.models else parsed


def _place(request: ProxyRequest, access: ProviderAccess, metering: Metering, path: str) -> Place:
    """Where the request goes. For a format that reads options from headers, they replace the query: query parameters
    with such names mean nothing to the provider."""
    names = getattr(metering, "reads_headers", ())
    given = [(name, text) for name in names if (text := request.headers.get(name))]
    query = urlencode(given) if names else request.query
    return Place(access.provider.slug, request.method, path, _content_type(request), query)


def _content_type(request: ProxyRequest) -> str:
    return request.headers.get("content-type") or ""


def _call(
    services: Services,
    request: ProxyRequest,
    access: ProviderAccess,
    metering: Metering,
    path: str,
    endpoint: UpstreamEndpoint,
    read: ParsedBody,
    kept: ObjectCall | None = None,
) -> Call:
    payer, credential = endpoint.payer, endpoint.credential
    _check_read(access.provider, read, own=payer.own)
    gateway, header, metadata = request.gateway, request.headers.get, metadata_of(request.headers)
    retry_delay = _number(request, "cf-aig-retry-delay", 0, 60_000)
    keys = key_choices(request.headers, access, path, metering, endpoint, coded=request.coded)
    known = Call(
        log_id="",
        account_id=request.account_id,
        gateway_id=request.gateway_id,
        gateway=gateway,
        access=access,
        provider=access.provider.slug,
        own_key=payer.own,
        key_alias=keys[0].alias,
        key_id=keys[0].key_id,
        key_limit=keys[0].limit,
        keys=keys if len(keys) > 1 else (),
        secrets=secrets_of(access, endpoint),
        models={} if credential is None else credential.models,
        format=None if isinstance(metering, Plain) else metering,
        parsed=None,
        method=request.method,
        url=endpoint.url,
        signing=keys[0].signing,
        path=path,
        place=_place(request, access, metering, path),
        headers=keys[0].headers,
        sent_head=keys[0].sent_head,
        content_type=_content_type(request),
        request_timeout_ms=_response_timeout(services, request, own=payer.own),
        attempts_max=_number(request, "cf-aig-max-attempts", 1, 5) or gateway.retry_max_attempts or 1,
        retry_delay_ms=(gateway.retry_delay or 0) if retry_delay is None else retry_delay,
        retry_backoff=_backoff(header("cf-aig-backoff")) or gateway.retry_backoff or "constant",
        step=request.step,
        logged=flag(header("cf-aig-collect-log"), default=gateway.collect_logs),
        log_bodies=flag(header("cf-aig-collect-log-payload"), default=True),
        metadata=metadata.entries,
        metadata_ignored=metadata.ignored,
        custom_cost=custom_cost_of(request.headers) if payer.own else None,
        event_id=(header("cf-aig-event-id") or "")[:256],
        end_user=end_user_of(request.headers),
        user_agent=(header("user-agent") or "")[:256],
        token_id="" if request.token is None else request.token.token_id,
        common_form=request.slug in COMMON,
        cache=cache_use(request.headers, gateway) if _may_cache(request, metering) else None,
        trace=None if gateway.otel is None else request.trace or trace_of(request.headers),
        object=kept,
    )
    if known.cache is not None:
        known.cache.scope = scope_of(known, known.cache)
    if kept is None:  # otherwise the body decides
        request.known[known.provider if request.slug in COMMON else request.slug] = known
    return _with_body(services, request, known, read)


def _with_body(services: Services, request: ProxyRequest, known: Call, read: ParsedBody, cached_as: str = "") -> Call:
    """The call of this request, based on the call `known` for its head. `cached_as`: the key of its response in the
    cache, if that is known. Raises Problem."""
    _check_read(known.access.provider, read, own=known.own_key)
    as_read = read
    if known.models and read.parsed is not None:
        name, plus, extras = read.parsed.model.partition("+")
        if name in known.models:
            read = replace(read, parsed=_of_model(read.parsed, known.models[name] + plus + extras))
    limits = request.gateway.spend_limits
    if read.parsed is None and known.format is not None and limits is not None and limits.enabled and limits.rules:
        raise Problem(INVALID_REQUEST, "The gateway's spend limits cannot count this request: its body cannot be read.")
    if request.policies is not None and isinstance(known.format, OpenAIRemix | GoogleCacheExtension):
        raise Problem(NOT_METERED, "The gateway has policies, and the request does not name its model.")
    if request.token is not None and request.token.models is not None:
        check_model(request.token, known, read)
    if read.parsed is not None and read.parsed.in_thread:
        _check_thread(request, known)
    body: Body = request.body if read.body is None else read.body
    outline = read.outline
    if outline is not None and read.changed:
        body, outline = reassemble(body, outline)
    call = replace(
        known,
        log_id=request.log_id,
        parsed=read.parsed,
        is_named_by_owner=read is not as_read,
        body=body,
        outline=outline,
        started_at=services.clock.now_ms(),
        client=request.client,
        cache=None if known.cache is None else _cache_use(known, request.body, body, as_read, cached_as),
    )
    return call if request.policies is None else check_policies(request.policies, call, request.token, read)


def _of_model(parsed: ParsedRequest, model: str) -> ParsedRequest:
    """The same request for the actual model behind a name given by the key's owner."""
    return replace(parsed, model=model, demand=replace(parsed.demand, model=model))


def _may_cache(request: ProxyRequest, metering: Metering) -> bool:
    """Whether the request only runs a model: anything with other effects must be repeated each time."""
    return request.method == "POST" and not isinstance(metering, Plain)


def _cache_use(known: Call, sent: Body, body: Body, read: ParsedBody, cached_as: str) -> CacheUse | None:
    """How a call with this body uses the cache. `sent`: the body as it was received."""
    use = known.cache
    if use is None or not is_cacheable(body) or read.parsed is None or read.parsed.unmetered:
        return None
    # With a cache key of the caller's own, one scope covers requests to several providers, and the body of a common
    # format is read differently.
    identical = isinstance(sent, bytes) and not (use.key or known.common_form)
    return replace(use, body=sent if identical else b"", read=read, name=cached_as)


def _check_read(provider: Provider, read: ParsedBody, *, own: bool) -> None:
    """Raises Problem if the operator does not pay for what the body asks for."""
    if read.parsed is not None and read.parsed.unmetered and not own:
        raise Problem(NOT_METERED, f"Not on the operator's key: {read.parsed.unmetered}.")
    if read.refused:
        raise Problem(REQUEST_REFUSED, f"On the operator's key, {provider.name} is not called for {read.refused}.")


def _check_thread(request: ProxyRequest, known: Call) -> None:
    """Raises Problem unless the caller pays and may call every model: a thread keeps messages, tools and the models of
    advisors at the provider, where they can be neither counted nor checked."""
    checked = request.policies is not None or (request.token is not None and request.token.models is not None)
    if checked or not known.own_key:
        why = "with limits on models" if known.own_key else "on the operator's key"
        raise Problem(THREAD_REFUSED, f"Threads are not continued {why}: what they contain is not in the request.")


def _response_timeout(services: Services, request: ProxyRequest, *, own: bool) -> int | None:
    """The caller's timeout for the beginning of the response; on the operator's key at least the operator's minimum,
    because the provider does, and bills, what it was asked to do. None if the caller states none. Raises Problem."""
    wanted = _number(request, "cf-aig-request-timeout", 1, 3_600_000)
    if wanted is None or own:
        return wanted
    return max(wanted, services.settings.request_timeout_min_ms)


def _number(request: ProxyRequest, name: str, low: int, high: int) -> int | None:
    """A whole number within bounds from a header; None if the header is absent. Raises Problem."""
    text = request.headers.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX and low <= int(text) <= high):
        raise Problem(INVALID_REQUEST, f"{name} is {quoted(text)}, not a whole number from {low} to {high}.")
    return int(text)


def _backoff(text: str | None) -> str | None:
    if text is not None and text not in _BACKOFFS:
        raise Problem(INVALID_REQUEST, f"cf-aig-backoff must be one of {', '.join(_BACKOFFS)}.")
    return text
