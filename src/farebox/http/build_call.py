"""From an HTTP request to a Call: which provider, which path, which format, whose key, which options."""

import re
from urllib.parse import parse_qsl, quote, urlencode

import msgspec
from msgspec.structs import replace

from farebox.calls.model import Call
from farebox.calls.watch import Watch
from farebox.errors import (
    INVALID_REQUEST,
    NOT_METERED,
    OWN_KEY_REQUIRED,
    PROVIDER_UNKNOWN,
    REQUEST_REFUSED,
    Problem,
)
from farebox.gateway import GatewayConfig
from farebox.http.credentials import carries_ours, is_ours
from farebox.http.exchange import RequestHeaders
from farebox.http.parse_body import parse_body, parse_here, parse_in_helper, unreadable
from farebox.memfile import Body
from farebox.model import METADATA_ENTRIES_MAX, METADATA_RESERVED
from farebox.providers.audio.length import TooLong
from farebox.providers.catalogue import (
    CALLER_KEY_HEADERS,
    CALLER_KEY_QUERY,
    UNMETERED,
    Metering,
    Plain,
    Provider,
    format_of,
    key_header,
    provider_of,
    upstream_path,
)
from farebox.providers.formats.base import InvalidRequest, WireFormat
from farebox.providers.formats.bounds import is_light
from farebox.providers.formats.workers_ai_run import QUEUED
from farebox.providers.outline import reassemble
from farebox.providers.reading import Place, Read, read_as, read_call, read_common
from farebox.providers.upstream import SentHead
from farebox.runtime.configuration import ProviderAccess
from farebox.runtime.services import Services

_DROPPED = frozenset(
    {
        "host",
        "content-length",
        "connection",
        "keep-alive",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "accept-encoding",
        "cookie",
        "origin",
        "forwarded",
        "via",
        "x-real-ip",
        "x-auth-email",
        "x-auth-key",
        "x-auth-user-service-key",
    }
)
_DROPPED_PREFIXES = ("cf-", "farebox-", "proxy-", "x-forwarded-")
_OPERATOR_DROPPED_PREFIXES = ("x-goog-", "x-http-method", "openai-organization", "openai-project")
"""Google's switches for the whole API, such as a mask that cuts the usage out of the response; and which organization
or project of the operator's a call is for."""
_OPERATOR_DROPPED_QUERY = frozenset({CALLER_KEY_QUERY, "access_token", "callback", "fields", "oauth_token"})
"""The same in a query; also whatever begins with `$`, and forms of the response (`alt`) that are not JSON."""
_QUEUED_QUERY = "queueRequest"
"""Asks Workers AI to respond later, where its cost cannot be read."""
_RESPONSE_FORMS = ("json", "sse")
_BACKOFFS = ("constant", "linear", "exponential")
_DIGITS_MAX = 12
_leads_up = re.compile(r"(?:^|/|%2f|%5c)\.\.?(?:;[^/]*)?(?:$|/|%2f|%5c)", re.IGNORECASE).search
"""Whether a path has a segment that some server takes for the folder itself, or the one above it."""


COMMON = frozenset({"compat", "rest"})
"""What stands in a URL where the body names the provider."""


class RouteName(msgspec.Struct, frozen=True):
    """The name of a dynamic route that is called in the place of a model."""

    name: str


class ProxyRequest(msgspec.Struct, frozen=True):
    """One request to one provider, as a URL or a universal step asks for it."""

    log_id: str
    account_id: str
    gateway_id: str
    gateway: GatewayConfig
    slug: str
    path: str
    query: str
    method: str
    headers: RequestHeaders
    body: Body
    watch: Watch
    own_key: bool
    known: dict[str, Call]
    """What earlier requests with the same head had in common, by provider; see calls.model.Call."""
    step: int = 0
    coded: bool = False
    """The body is in a content coding that the provider may know."""
    client: str = ""
    """The address of the caller."""


def known_call(services: Services, request: ProxyRequest) -> Call | None:
    """The call of a request with the head of an earlier one and a light body, as most are, made without waiting; None
    where it is to be made by `native_call` or `compat_call`. Raises Problem."""
    known = request.known.get(request.slug)
    if known is None or known.format is None or not (isinstance(request.body, bytes) and is_light(request.body)):
        return None
    refused = None if request.own_key else services.refusals.get(known.provider)
    try:
        read = parse_here(read_as, known.format, request.body, known.place, refused, request.own_key)
    except TooLong:
        return None
    return _with_body(services, request, known, read)


async def native_call(services: Services, request: ProxyRequest) -> Call:
    """A call of a provider's own path. Raises Problem."""
    known = request.known.get(request.slug)
    if known is not None:
        return _with_body(services, request, known, await _read(services, request, known.format, known.place))
    access = _access(services, request.slug)
    path = upstream_path(access.provider, request.path)
    metering = format_of(access.provider, request.method, path)
    key = _key(request, access, metering, path)
    place = Place(access.provider.slug, request.method, path, _content_type(request))
    read = await _read(services, request, None if isinstance(metering, Plain) else metering, place)
    return _call(services, request, access, metering, path, key, read)


async def _read(services: Services, request: ProxyRequest, wire: WireFormat | None, place: Place) -> Read:
    """What is read of the body. Raises Problem."""
    if wire is None:
        return Read(None)
    refused = None if request.own_key else services.refusals.get(place.slug)
    if isinstance(request.body, bytes) and is_light(request.body):
        try:
            return parse_here(read_as, wire, request.body, place, refused, request.own_key)
        except TooLong:
            pass
    return await parse_in_helper(
        services, request.watch, request.account_id, read_call, request.body, place, refused, request.own_key
    )


async def compat_call(services: Services, request: ProxyRequest, chosen: str = "") -> Call | RouteName:
    """A call in a common form whose body names `provider/model`: chat/completions, embeddings, responses, messages.
    `chosen` is called in the place of what the body names. The name of a dynamic route, where the body names one.

    Raises Problem.
    """
    place = Place("", request.method, request.path, _content_type(request))
    refusals, own_key = services.refusals, request.own_key
    found = await parse_body(
        services, request.watch, request.account_id, read_common, request.body, place, refusals, own_key, chosen
    )
    if found.route:
        return RouteName(found.route)
    known = request.known.get(found.slug)
    if known is not None and isinstance(found.read, Read):
        return _with_body(services, request, known, found.read)
    access = _access(services, found.slug)
    if found.read is None:
        raise Problem(INVALID_REQUEST, f"{access.provider.name} does not offer `{request.path}` in this form.")
    metering = format_of(access.provider, request.method, found.path)
    key = _key(request, access, metering, found.path)
    if isinstance(found.read, InvalidRequest):
        raise unreadable(found.read)
    return _call(services, request, access, metering, found.path, key, found.read)


def _access(services: Services, slug: str) -> ProviderAccess:
    provider = provider_of(slug)
    access = None if provider is None else services.configuration.provider(provider.slug)
    if access is None:
        raise Problem(PROVIDER_UNKNOWN, f"There is no provider {slug[:64]!r}.")
    return access


def _key(request: ProxyRequest, access: ProviderAccess, metering: Metering, path: str) -> str | None:
    """The operator's key; None if the caller's own pays. Raises Problem."""
    if "." in path and _leads_up(path):
        raise Problem(INVALID_REQUEST, f"The path {path[:200]!r} leads out of where the provider's API is.")
    if request.own_key:
        return None
    key = _operator_key(request, access)
    if metering is UNMETERED:
        raise Problem(
            NOT_METERED,
            f"Farebox cannot tell what {request.method} {path[:200]} of {access.provider.name} costs, so it is not "
            "called on the operator's key.",
        )
    if _queued(request.query):
        raise Problem(NOT_METERED, f"Not on the operator's key: {QUEUED}.")
    return key


def _content_type(request: ProxyRequest) -> str:
    return request.headers.get("content-type") or ""


def _call(
    services: Services,
    request: ProxyRequest,
    access: ProviderAccess,
    metering: Metering,
    path: str,
    key: str | None,
    read: Read,
) -> Call:
    _check_read(request, access.provider, read)
    gateway, header = request.gateway, request.headers.get
    retry_delay = _number(header("cf-aig-retry-delay"), 0, 60_000)
    known = Call(
        log_id="",
        account_id=request.account_id,
        gateway_id=request.gateway_id,
        gateway=gateway,
        access=access,
        provider=access.provider.slug,
        own_key=request.own_key,
        format=None if isinstance(metering, Plain) else metering,
        parsed=None,
        method=request.method,
        url=_url(access, path, request),
        path=path,
        place=Place(access.provider.slug, request.method, path, _content_type(request)),
        headers=_forwarded(request, access.provider, path, key),
        sent_head=SentHead(),
        content_type=_content_type(request),
        request_timeout_ms=_response_timeout(services, request),
        attempts_max=_number(header("cf-aig-max-attempts"), 1, 5) or gateway.retry_max_attempts or 1,
        retry_delay_ms=(gateway.retry_delay or 0) if retry_delay is None else retry_delay,
        retry_backoff=_backoff(header("cf-aig-backoff")) or gateway.retry_backoff or "constant",
        step=request.step,
        logged=_flag(header("cf-aig-collect-log"), default=gateway.collect_logs),
        log_bodies=_flag(header("cf-aig-collect-log-payload"), default=True),
        metadata=metadata_of(request.headers),
        event_id=(header("cf-aig-event-id") or "")[:256],
        user_agent=(header("user-agent") or "")[:256],
        common_form=request.slug in COMMON,
    )
    request.known[known.provider if request.slug in COMMON else request.slug] = known
    return _with_body(services, request, known, read)


def _with_body(services: Services, request: ProxyRequest, known: Call, read: Read) -> Call:
    """The call of this request, with what is `known` from its head. Raises Problem."""
    _check_read(request, known.access.provider, read)
    body: Body = request.body if read.body is None else read.body
    outline = read.outline
    if outline is not None and read.changed:
        body, outline = reassemble(body, outline)
    return replace(
        known,
        log_id=request.log_id,
        parsed=read.parsed,
        body=body,
        outline=outline,
        started_at=services.clock.now_ms(),
        client=request.client,
    )


def _check_read(request: ProxyRequest, provider: Provider, read: Read) -> None:
    """Raises Problem if the operator does not pay for what the body asks for."""
    if read.parsed is not None and read.parsed.unmetered and not request.own_key:
        raise Problem(NOT_METERED, f"Not on the operator's key: {read.parsed.unmetered}.")
    if read.refused:
        raise Problem(REQUEST_REFUSED, f"On the operator's key, {provider.name} is not request for {read.refused}.")


def _response_timeout(services: Services, request: ProxyRequest) -> int | None:
    """How long the caller waits for the response to begin; on the operator's key not less than the operator's minimum,
    because what a provider was request to do it does, and bills. None if the caller does not say. Raises Problem."""
    wanted = _number(request.headers.get("cf-aig-request-timeout"), 1, 3_600_000)
    if wanted is None or request.own_key:
        return wanted
    return max(wanted, services.settings.request_timeout_min_ms)


def _operator_key(request: ProxyRequest, access: ProviderAccess) -> str:
    """The operator's key for the provider, where the account may use it. Raises Problem (OWN_KEY_REQUIRED)."""
    if request.gateway.byok_only or _flag(request.headers.get("cf-aig-no-wholesale"), default=False):
        raise Problem(OWN_KEY_REQUIRED, "This gateway accepts only calls with your own provider key.")
    if access.api_key is None:
        raise Problem(
            OWN_KEY_REQUIRED,
            f"The operator has no key for {access.provider.name}: send your own, or ask the operator to run "
            f"`farebox provider set {access.provider.slug} --api-key KEY`.",
        )
    return access.api_key


def _url(access: ProviderAccess, path: str, request: ProxyRequest) -> str:
    query = request.query
    if query and (not request.own_key or f"{CALLER_KEY_QUERY}=" in query):
        pairs = parse_qsl(query, keep_blank_values=True)
        if request.own_key:
            kept = [(name, value) for name, value in pairs if name != CALLER_KEY_QUERY or not is_ours(value)]
        else:
            kept = [(name, value) for name, value in pairs if _may_forward_parameter(name, value)]
        query = urlencode(kept, quote_via=quote)
    return f"{access.base_url}/{path}?{query}" if query else f"{access.base_url}/{path}"


def _queued(query: str) -> bool:
    """Whether the query has the response put off."""
    if _QUEUED_QUERY.lower() not in query.lower():
        return False
    pairs = parse_qsl(query, keep_blank_values=True)
    return any(name.lower() == _QUEUED_QUERY.lower() and value.lower() not in ("false", "0") for name, value in pairs)


def _may_forward_parameter(name: str, value: str) -> bool:
    """Whether a query may say this on the operator's key: not what hides the usage, or makes another call of it."""
    if name == "alt":
        return value in _RESPONSE_FORMS
    return name not in _OPERATOR_DROPPED_QUERY and not name.startswith("$")


def _forwarded(request: ProxyRequest, provider: Provider, path: str, key: str | None) -> list[tuple[str, str]]:
    """The headers for the provider. With `key`, the operator's, no credential of the caller's goes along."""
    forwarded = []
    for name, value in request.headers.items():
        plain = name.replace("_", "-")  # some servers take them for the same
        if plain in _DROPPED or plain.startswith(_DROPPED_PREFIXES):
            continue
        if plain == "content-encoding" and not request.coded:
            continue
        if plain in CALLER_KEY_HEADERS and (key is not None or carries_ours(value)):
            continue
        if key is not None and plain.startswith(_OPERATOR_DROPPED_PREFIXES):
            continue
        forwarded.append((name, value))
    if key is not None:
        forwarded.append(key_header(provider, path, key))
    forwarded.append(("accept-encoding", "identity"))  # the usage must be readable in the passing bytes
    present = {name for name, _ in forwarded}
    forwarded.extend(item for item in provider.headers if item[0] not in present)
    return forwarded


def _number(text: str | None, low: int, high: int) -> int | None:
    """A whole number within bounds; None if the header is absent. Raises Problem."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX and low <= int(text) <= high):
        raise Problem(INVALID_REQUEST, f"{text[:32]!r} in a cf-aig header is not a whole number from {low} to {high}.")
    return int(text)


def _backoff(text: str | None) -> str | None:
    if text is not None and text not in _BACKOFFS:
        raise Problem(INVALID_REQUEST, f"cf-aig-backoff must be one of {', '.join(_BACKOFFS)}.")
    return text


def _flag(text: str | None, *, default: bool) -> bool:
    return default if text is None else text.strip().lower() == "true"


def metadata_of(headers: RequestHeaders) -> dict[str, str | int | float | bool] | None:
    """The first five entries of a flat JSON object; one null or nested value voids them all, as at Cloudflare."""
    text = headers.get("cf-aig-metadata")
    if not text:
        return None
    try:
        entries = msgspec.json.decode(text, type=dict[str, str | int | float | bool])
    except msgspec.DecodeError:
        return None
    kept = [(key, value) for key, value in entries.items() if not key.startswith(METADATA_RESERVED)]
    return dict(kept[:METADATA_ENTRIES_MAX]) or None
