"""From an HTTP request to a Call: which provider, which path, which format, whose key, which options."""

from urllib.parse import parse_qsl, quote, urlencode

import msgspec

from farebox.errors import INVALID_REQUEST, NOT_METERED, OWN_KEY_REQUIRED, PROVIDER_UNKNOWN, Problem
from farebox.gateway import GatewayConfig
from farebox.http.credentials import carries_ours, is_ours
from farebox.http.exchange import RequestHeaders
from farebox.providers.catalogue import (
    CALLER_KEY_HEADERS,
    CALLER_KEY_QUERY,
    UNMETERED,
    Metering,
    Plain,
    Provider,
    compat_model,
    format_of,
    key_header,
    provider_of,
    upstream_path,
)
from farebox.providers.formats.base import InvalidRequest, ParsedRequest, WireFormat
from farebox.providers.formats.workers_ai_run import QUEUED
from farebox.usecases.call import Call
from farebox.usecases.configuration import ProviderAccess
from farebox.usecases.services import Services

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
"""Google's switches for the whole API, such as a mask that cuts the usage out of the answer; and which organization or
project of the operator's a call is for."""
_OPERATOR_DROPPED_QUERY = frozenset({CALLER_KEY_QUERY, "access_token", "callback", "fields", "oauth_token"})
"""The same in a query; also whatever begins with `$`, and forms of the answer (`alt`) that are not JSON."""
_QUEUED_QUERY = "queueRequest"
"""Asks Workers AI to answer later, where nobody reads what it cost."""
_ANSWER_FORMS = ("json", "sse")
_BACKOFFS = ("constant", "linear", "exponential")
_METADATA_MAX = 5
_DIGITS_MAX = 12


class Asked(msgspec.Struct, frozen=True, kw_only=True):
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
    body: bytes
    own_key: bool
    step: int = 0
    coded: bool = False
    """The body is in a content coding that the provider may know."""


class _Named(msgspec.Struct):
    model: str


def native_call(services: Services, asked: Asked) -> Call:
    """A call of a provider's own path. Raises Problem."""
    access = _access(services, asked.slug)
    path = upstream_path(access.provider, asked.path)
    return _call(services, asked, access, path, format_of(access.provider, asked.method, path), asked.body)


def compat_call(services: Services, asked: Asked) -> Call:
    """A call in a common form whose body names `provider/model`: chat/completions, embeddings, responses, messages.

    Raises Problem.
    """
    try:
        slug, model = compat_model(msgspec.json.decode(asked.body, type=_Named).model)
    except msgspec.DecodeError as error:
        raise Problem(INVALID_REQUEST, f"The body cannot be read: {error}") from error
    except InvalidRequest as error:
        raise Problem(INVALID_REQUEST, str(error)) from error
    access = _access(services, slug)
    path = _common_path(access.provider, asked.path)
    metering = UNMETERED if path is None else format_of(access.provider, "POST", path)
    if path is None or isinstance(metering, Plain):
        raise Problem(INVALID_REQUEST, f"{access.provider.name} does not offer `{asked.path}` in this form.")
    return _call(services, asked, access, path, metering, metering.replace_model(asked.body, model))


def _common_path(provider: Provider, path: str) -> str | None:
    """The provider's own path for one of the common forms; None where it has none."""
    if path == "chat/completions":
        return provider.chat_path
    if path == "embeddings":
        return provider.embeddings_path
    return upstream_path(provider, path)


def _access(services: Services, slug: str) -> ProviderAccess:
    provider = provider_of(slug)
    access = None if provider is None else services.configuration.provider(provider.slug)
    if access is None:
        raise Problem(PROVIDER_UNKNOWN, f"There is no provider {slug[:64]!r}.")
    return access


def _call(services: Services, asked: Asked, access: ProviderAccess, path: str, metering: Metering, body: bytes) -> Call:
    key = None if asked.own_key else _operator_key(asked, access)
    if metering is UNMETERED and not asked.own_key:
        raise Problem(
            NOT_METERED,
            f"Farebox cannot tell what {asked.method} {path[:200]} of {access.provider.name} costs, so it is not "
            "called on the operator's key.",
        )
    if not asked.own_key and _queued(asked.query):
        raise Problem(NOT_METERED, f"Not on the operator's key: {QUEUED}.")
    content_type = asked.headers.get("content-type") or ""
    format_ = None if isinstance(metering, Plain) else metering
    parsed = None
    if format_ is not None:
        parsed, body = _parse(format_, path, content_type, body, own_key=asked.own_key)
    if parsed is not None and parsed.unmetered and not asked.own_key:
        raise Problem(NOT_METERED, f"Not on the operator's key: {parsed.unmetered}.")
    gateway, header = asked.gateway, asked.headers.get
    retry_delay = _number(header("cf-aig-retry-delay"), 0, 60_000)
    return Call(
        log_id=asked.log_id,
        account_id=asked.account_id,
        gateway_id=asked.gateway_id,
        gateway=gateway,
        access=access,
        own_key=asked.own_key,
        format=format_,
        parsed=parsed,
        method=asked.method,
        url=_url(access, path, asked),
        path=path,
        headers=_forwarded(asked, access.provider, path, key),
        body=body,
        content_type=content_type,
        started_at=services.clock.now_ms(),
        request_timeout_ms=_number(header("cf-aig-request-timeout"), 1, 3_600_000),
        attempts_max=_number(header("cf-aig-max-attempts"), 1, 5) or gateway.retry_max_attempts or 1,
        retry_delay_ms=(gateway.retry_delay or 0) if retry_delay is None else retry_delay,
        retry_backoff=_backoff(header("cf-aig-backoff")) or gateway.retry_backoff or "constant",
        step=asked.step,
        logged=_flag(header("cf-aig-collect-log"), default=gateway.collect_logs),
        log_bodies=_flag(header("cf-aig-collect-log-payload"), default=True),
        metadata=_metadata(header("cf-aig-metadata")),
        event_id=(header("cf-aig-event-id") or "")[:256],
        user_agent=(header("user-agent") or "")[:256],
    )


def _operator_key(asked: Asked, access: ProviderAccess) -> str:
    """The operator's key for the provider, where the account may use it. Raises Problem (OWN_KEY_REQUIRED)."""
    if asked.gateway.byok_only or _flag(asked.headers.get("cf-aig-no-wholesale"), default=False):
        raise Problem(OWN_KEY_REQUIRED, "This gateway takes calls with a provider key of your own only.")
    if access.api_key is None:
        raise Problem(
            OWN_KEY_REQUIRED,
            f"The operator has no key for {access.provider.name}: send your own, or ask the operator to run "
            f"`farebox provider set {access.provider.slug} --api-key KEY`.",
        )
    return access.api_key


def _parse(
    format_: WireFormat, path: str, content_type: str, body: bytes, *, own_key: bool
) -> tuple[ParsedRequest | None, bytes]:
    """The request as billing reads it, and the body to forward. With a key of the caller's own, a body that we cannot
    read is the provider's to judge."""
    try:
        parsed = format_.parse(path, content_type, body)
        if parsed.stream and not parsed.asked_usage:
            body = format_.ask_usage(body)
    except InvalidRequest as error:
        if own_key:
            return None, body
        raise Problem(INVALID_REQUEST, str(error)) from error
    return parsed, body


def _url(access: ProviderAccess, path: str, asked: Asked) -> str:
    query = asked.query
    if query and (not asked.own_key or f"{CALLER_KEY_QUERY}=" in query):
        pairs = parse_qsl(query, keep_blank_values=True)
        if asked.own_key:
            kept = [(name, value) for name, value in pairs if name != CALLER_KEY_QUERY or not is_ours(value)]
        else:
            kept = [(name, value) for name, value in pairs if _may_ask(name, value)]
        query = urlencode(kept, quote_via=quote)
    return f"{access.base_url}/{path}?{query}" if query else f"{access.base_url}/{path}"


def _queued(query: str) -> bool:
    """Whether the query has the answer put off."""
    if _QUEUED_QUERY.lower() not in query.lower():
        return False
    pairs = parse_qsl(query, keep_blank_values=True)
    return any(name.lower() == _QUEUED_QUERY.lower() and value.lower() not in ("false", "0") for name, value in pairs)


def _may_ask(name: str, value: str) -> bool:
    """Whether a query may say this on the operator's key: not what hides the usage, or makes another call of it."""
    if name == "alt":
        return value in _ANSWER_FORMS
    return name not in _OPERATOR_DROPPED_QUERY and not name.startswith("$")


def _forwarded(asked: Asked, provider: Provider, path: str, key: str | None) -> list[tuple[str, str]]:
    """The headers for the provider. With `key`, the operator's, no credential of the caller's goes along."""
    forwarded = []
    for name, value in asked.headers.items():
        if name in _DROPPED or name.startswith(_DROPPED_PREFIXES):
            continue
        if name == "content-encoding" and not asked.coded:
            continue
        if name in CALLER_KEY_HEADERS and (key is not None or carries_ours(value)):
            continue
        if key is not None and name.startswith(_OPERATOR_DROPPED_PREFIXES):
            continue
        forwarded.append((name, value))
    if key is not None:
        forwarded.append(key_header(provider, path, key))
    forwarded.append(("accept-encoding", "identity"))  # the usage must be readable in the passing bytes
    present = {name for name, _ in forwarded}
    forwarded.extend(item for item in provider.headers if item[0] not in present)
    return forwarded


def _number(text: str | None, low: int, high: int) -> int | None:
    """A whole number within bounds; None where the header is absent. Raises Problem."""
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


def _metadata(text: str | None) -> dict[str, str | int | float | bool] | None:
    """The first five entries of a flat JSON object; one null or nested value voids them all, as at Cloudflare."""
    if not text:
        return None
    try:
        entries = msgspec.json.decode(text, type=dict[str, str | int | float | bool])
    except msgspec.DecodeError:
        return None
    kept = [(key, value) for key, value in entries.items() if not key.startswith("cf.")]
    return dict(kept[:_METADATA_MAX]) or None
