"""Routing a call: who pays for it, with which key, and to which URL."""

import re
from urllib.parse import parse_qsl, quote, urlencode

import msgspec
from msgspec.structs import replace

from farebox.errors import (
    INVALID_REQUEST,
    KEY_UNKNOWN,
    KEY_UNREADABLE,
    NOT_METERED,
    OWN_KEY_REQUIRED,
    PROVIDER_UNAVAILABLE,
    Problem,
)
from farebox.http.credentials import is_ours
from farebox.http.payer import Payer, payer_of
from farebox.http.proxy_request import ProxyRequest
from farebox.providers.credential import Credential, InvalidKey
from farebox.providers.formats.base import InvalidRequest
from farebox.providers.formats.workers_ai_run import QUEUED
from farebox.providers.provider import CALLER_KEY_QUERY, UNMETERED, Metering
from farebox.providers.provider_path import ProviderPath, filled_base_url, provider_path
from farebox.providers.signing import Signing, signing_of
from farebox.providers.unpaid_paths import why_unpaid
from farebox.quoting import quoted
from farebox.runtime.provider_access import ProviderAccess
from farebox.runtime.services import Services

_OPERATOR_DROPPED_QUERY = frozenset({CALLER_KEY_QUERY, "access_token", "callback", "fields", "oauth_token"})
"""Query parameters that are not forwarded on the operator's key, as they hide the usage; also those that begin with
`$`, and response formats (`alt`) other than JSON."""
_QUEUED_QUERY = "queueRequest"
"""Asks Workers AI to respond later, when its cost cannot be read."""
_RESPONSE_FORMS = ("json", "sse")
_leads_up = re.compile(r"(?:^|/|%2f|%5c)\.\.?(?:;[^/]*)?(?:$|/|%2f|%5c)", re.IGNORECASE).search
"""Finds a path segment that some server may interpret as the folder itself or its parent."""


class UpstreamEndpoint(msgspec.Struct, frozen=True):
    """The URL that a call is sent to, with which key, and who pays for it."""

    payer: Payer
    credential: Credential | None
    """The credential made from `payer.key` for the place that the path names; None if nothing replaces what the caller
    sent."""
    url: str
    signing: Signing | None = None
    """How each request is signed; None if the key is in a header."""
    shared: "tuple[UpstreamEndpoint, ...]" = ()
    """If several keys share the calls: the endpoint with each of them, this one first."""


def endpoint_of(
    services: Services, request: ProxyRequest, access: ProviderAccess, metering: Metering, path: str
) -> UpstreamEndpoint:
    """The endpoint of a call to this path. Raises Problem."""
    if "." in path and _leads_up(path):
        raise Problem(INVALID_REQUEST, f"The path {quoted(path)} leads outside the provider's API.")
    payer = payer_of(services, access, request.own, request.gateway, request.headers, own_key=request.own_key)
    if payer.own and access.provider.local:
        raise Problem(
            INVALID_REQUEST, f"{access.provider.name} is the operator's own server: it does not take other keys."
        )
    if not payer.own:
        _check_metered(request, access, metering, path)
    try:
        where = provider_path(access.provider, path)
        url = f"{filled_base_url(access.base_url, where)}/{where.path}"
    except InvalidRequest as error:
        raise Problem(INVALID_REQUEST, str(error)) from error
    query = _query(request.query, own=payer.own, media=path.endswith(":download"))
    return _endpoint(access, payer, where, f"{url}?{query}" if query else url)


def _endpoint(access: ProviderAccess, payer: Payer, where: ProviderPath, url: str) -> UpstreamEndpoint:
    """The endpoint with the credential of the payer. Raises Problem."""
    if not payer.shared:
        return _with_key(payer, None if payer.key is None else _credential(access, payer, payer.key, where), where, url)
    found, wrong = list[tuple[Payer, Credential]](), list[Problem]()
    for one in payer.shared:
        try:
            found.append((one, _credential(access, one, one.key or "", where)))
        except Problem as problem:  # the key is for another place
            wrong.append(problem)
    if not found:
        raise wrong[0]
    # The name of a deployment is known from the first key: keys with other models under the same names are left out.
    shared = [_with_key(one, key, where, url) for one, key in found if key.models == found[0][1].models]
    return replace(shared[0], shared=tuple(shared) if len(shared) > 1 else ())


def _with_key(payer: Payer, credential: Credential | None, where: ProviderPath, url: str) -> UpstreamEndpoint:
    return UpstreamEndpoint(
        payer, credential, url, None if credential is None else signing_of(credential.signer, where.fields)
    )


def _check_metered(request: ProxyRequest, access: ProviderAccess, metering: Metering, path: str) -> None:
    """Raises Problem if the operator's key may not be used for this."""
    if metering is UNMETERED and (why := why_unpaid(access.provider.slug, path)):
        raise Problem(NOT_METERED, f"{path[:200]} is not called on the operator's key: {why}.")
    if metering is UNMETERED:
        raise Problem(
            NOT_METERED,
            f"Farebox cannot tell what {request.method} {path[:200]} of {access.provider.name} costs, so it is not "
            "called on the operator's key.",
        )
    if _queued(request.query):
        raise Problem(NOT_METERED, f"Not on the operator's key: {QUEUED}.")


def _credential(access: ProviderAccess, payer: Payer, key: str, where: ProviderPath) -> Credential:
    """The credential of the key that is valid for this place. Raises Problem."""
    provider = access.provider
    whose = "operator's" if payer.stored is None else f"stored ({quoted(payer.stored.alias)})"
    try:
        found = provider.keys(key)
    except InvalidKey as error:
        kind = PROVIDER_UNAVAILABLE if payer.stored is None else KEY_UNREADABLE
        raise Problem(kind, f"The {whose} key for {provider.name} cannot be used: {error}.") from error
    for one in found:
        bound = payer.own or all(name in one.places for name in provider.bound)
        if bound and one.is_for(where.fields):
            return one
    named = ", ".join(f"{name} {quoted(value)}" for name, value in where.fields.items() if name != "host")
    raise Problem(
        OWN_KEY_REQUIRED if payer.stored is None else KEY_UNKNOWN,
        f"The {whose} key for {provider.name} is not for the {named}.",
    )


def _query(query: str, *, own: bool, media: bool) -> str:
    """The query as it is forwarded. `media`: the content of a file is requested."""
    if not query or (own and f"{CALLER_KEY_QUERY}=" not in query):
        return query
    pairs = parse_qsl(query, keep_blank_values=True)
    if own:
        kept = [(name, value) for name, value in pairs if name != CALLER_KEY_QUERY or not is_ours(value)]
    else:
        kept = [pair for pair in pairs if _may_forward_parameter(*pair) or (media and pair == ("alt", "media"))]
    return urlencode(kept, quote_via=quote)


def _queued(query: str) -> bool:
    """Whether the query asks for a deferred response."""
    if _QUEUED_QUERY.lower() not in query.lower():
        return False
    pairs = parse_qsl(query, keep_blank_values=True)
    return any(name.lower() == _QUEUED_QUERY.lower() and value.lower() not in ("false", "0") for name, value in pairs)


def _may_forward_parameter(name: str, value: str) -> bool:
    """Whether this query parameter may be used on the operator's key: not one that hides the usage, or turns the call
    into another one."""
    if name == "alt":
        return value in _RESPONSE_FORMS
    return name not in _OPERATOR_DROPPED_QUERY and not name.startswith("$")
