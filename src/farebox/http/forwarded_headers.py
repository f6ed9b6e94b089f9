"""The headers that are sent to the provider: the caller's, without those not meant for the provider, and the key."""

from farebox.errors import INVALID_REQUEST, Problem
from farebox.http.credentials import carries_ours
from farebox.http.exchange import RequestHeaders
from farebox.http.upstream_endpoint import UpstreamEndpoint
from farebox.providers.naming import LOOP_NAME, PASSES_MAX, passed_before, stored_key_header
from farebox.providers.provider import CALLER_KEY_HEADERS, Metering
from farebox.runtime.provider_access import CustomAccess, ProviderAccess

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
_DROPPED_PREFIXES = ("cf-", "farebox-", "proxy-", "sec-websocket-", "x-forwarded-")
_OVERRIDES = ("x-http-method", "x-method-override", "x-original-method")
"""Headers that make some servers replace the method of the request."""
_OPERATOR_DROPPED_PREFIXES = (
    *("x-goog-", "openai-organization", "openai-project", "anthropic-workspace", "x-amzn-bedrock-", "x-vertex-ai-"),
)
"""Google's switches for the whole API, such as a mask that removes the usage from the response; which organization,
project or workspace of the operator a call is for; and tiers and guardrails of Amazon and Vertex AI, which cost more
than the body shows."""

_UPLOADS = "x-goog-upload-"
"""Prefix of the headers that say which piece of a file is sent."""


def forwarded_headers(
    headers: RequestHeaders,
    access: ProviderAccess,
    path: str,
    metering: Metering,
    endpoint: UpstreamEndpoint,
    *,
    coded: bool,
) -> list[tuple[str, str]]:
    """The headers to send to the provider with a request to this path. If another key replaces the caller's, no
    credential of the caller is forwarded. `coded`: the body stays in its content coding. Raises Problem
    (INVALID_REQUEST)."""
    payer, credential, provider = endpoint.payer, endpoint.credential, access.provider
    set_by_account = {} if access.custom is None else _custom_headers(headers, access.custom)
    with_secret = credential is not None or (access.custom is not None and bool(access.custom.secrets))
    forwarded = []
    for name, value in headers.items():
        plain = name.replace("_", "-")  # some servers treat both as the same
        if plain in _DROPPED or plain.startswith(_DROPPED_PREFIXES):
            continue
        if plain == "content-encoding" and not coded:
            continue
        if plain in CALLER_KEY_HEADERS and (credential is not None or carries_ours(value)):
            continue
        if with_secret and plain.startswith(_OVERRIDES):
            continue
        if not payer.own and plain.startswith(_OPERATOR_DROPPED_PREFIXES) and not plain.startswith(_UPLOADS):
            continue
        if plain in set_by_account and plain not in CALLER_KEY_HEADERS:
            continue
        forwarded.append((name, value))
    if credential is not None and credential.word:
        forwarded.append(stored_key_header(provider, path, metering, credential))
    forwarded.append(("accept-encoding", "identity"))  # the usage must be readable in the passing bytes
    present = {name for name, _ in forwarded}
    if not present.isdisjoint(CALLER_KEY_HEADERS):
        present.update(CALLER_KEY_HEADERS)  # one key is enough, in whichever header
    forwarded.extend(item for item in (*set_by_account.items(), *provider.headers) if item[0] not in present)
    return forwarded


def _custom_headers(headers: RequestHeaders, custom: CustomAccess) -> dict[str, str]:
    """The headers configured for a custom provider, and a mark by which a call that comes back here is recognized.
    Raises Problem (INVALID_REQUEST) if it has come back too often."""
    passed = headers.get("cdn-loop")
    if passed_before(passed) >= PASSES_MAX:
        raise Problem(INVALID_REQUEST, "The base URL of the custom provider leads back here.")
    return {**dict(custom.headers), "cdn-loop": f"{passed}, {LOOP_NAME}" if passed else LOOP_NAME}
