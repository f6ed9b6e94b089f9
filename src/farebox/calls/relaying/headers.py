"""The headers of a response: which of the provider's are passed on, and our own about the call's cost."""

from farebox.calls import operator_key
from farebox.calls.stages import Held, Settled
from farebox.money import format_usd

_NOT_PASSED = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "set-cookie",
        "alt-svc",
        "strict-transport-security",
        "accept-ch",
        "cache-control",
        "cdn-cache-control",
        "clear-site-data",
        "expires",
        "nel",
        "pragma",
        "refresh",
        "report-to",
        "reporting-endpoints",
        "service-worker-allowed",
        "surrogate-control",
        "x-accel-buffering",
        "x-accel-charset",
        "x-accel-expires",
        "x-accel-limit-rate",
        "x-accel-redirect",
        "x-lighttpd-send-file",
        "x-reproxy-url",
        "x-sendfile",
        "x-sendfile2",
    }
)
"""Response headers that concern the provider's connection or host rather than the response, and instructions to caches,
browsers and proxies on the way: `x-accel-redirect` would make an nginx in front of us send one of its own files."""
_DATA = ("application/json", "text/event-stream")
"""Content types that browsers do not treat as a page."""
_INERT = (("content-security-policy", "default-src 'none'; sandbox"), ("x-content-type-options", "nosniff"))
"""Added to other content, which an account can choose and lead others to: our origin also serves the billing page."""
_NAMES_MAX, _NAME_MAX = 1024, 64
_names: dict[str, tuple[str, bool]] = {}
"""Header names seen in responses, in lower case, and whether they are passed on."""


def passed_headers(headers: list[tuple[str, str]], *, own_key: bool) -> tuple[list[tuple[str, str]], int | None, str]:
    """The headers that are passed on, the declared length, and the content type; empty if none is declared."""
    passed: list[tuple[str, str]] = []
    length, content_type, data = None, "", True
    for name, value in headers:
        lower, passes = _names.get(name) or _learn(name)
        if passes and (own_key or lower not in operator_key.HEADERS):
            passed.append((lower, value))
            if lower == "content-type":
                found = value.partition(";")[0].strip().lower()
                content_type = content_type or found
                data = data and found in _DATA and "," not in value
        elif lower == "content-length" and value.isascii() and value.isdigit() and len(value) < 19:
            length = int(value)
    if own_key and not (data and content_type):
        passed.extend(_INERT)
    return passed, length, content_type


def _learn(name: str) -> tuple[str, bool]:
    lower = name.lower()
    found = lower, lower not in _NOT_PASSED and not lower.startswith("access-control-")  # CORS is our own decision
    if len(_names) < _NAMES_MAX and len(name) <= _NAME_MAX:
        _names[name] = found
    return found


def hold_headers(held: Held | None) -> list[tuple[str, str]]:
    """Our headers on a response that begins before its charge is known: the hold, and what is left."""
    if held is None:
        return []
    return _money("farebox-hold-usd", held.estimate.amount, held.verdict.available, held)


def charge_headers(held: Held | None, settled: Settled) -> list[tuple[str, str]]:
    """Our headers on a response whose charge is known: the charge, and what is left; the hold if the charge is not
    posted yet."""
    verdict = settled.verdict
    if held is None or verdict is None:
        return hold_headers(held)
    return _money("farebox-charge-usd", verdict.amount, verdict.available, held)


def _money(name: str, nanos: int, available: int, held: Held) -> list[tuple[str, str]]:
    headers = [(name, format_usd(nanos)), ("farebox-balance-usd", format_usd(available))]
    if held.output_limit is not None:
        headers.append(("farebox-output-limit", str(held.output_limit)))
    return headers
