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
"""Answer headers that speak of the provider's connection, or of its host, rather than of the response; and orders to
the
caches, browsers and proxies on the way: `x-accel-redirect` would have an nginx before us send one of its own files."""
_DATA = ("application/json", "text/event-stream")
"""What no browser takes for a page."""
_INERT = (("content-security-policy", "default-src 'none'; sandbox"), ("x-content-type-options", "nosniff"))
"""With anything else that an account has chosen, and may lead others to: our origin has the billing page too."""
_NAMES_MAX, _NAME_MAX = 1024, 64
_names: dict[str, tuple[str, bool]] = {}
"""Names of headers that answers had: in lower case, and whether they are passed on."""


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
        elif lower == "content-length" and value.isascii() and value.isdigit():
            length = int(value)
    if own_key and not (data and content_type):
        passed.extend(_INERT)
    return passed, length, content_type


def _learn(name: str) -> tuple[str, bool]:
    lower = name.lower()
    found = lower, lower not in _NOT_PASSED and not lower.startswith("access-control-")  # who may read it, we say
    if len(_names) < _NAMES_MAX and len(name) <= _NAME_MAX:
        _names[name] = found
    return found


def hold_headers(held: Held | None) -> list[tuple[str, str]]:
    """Our headers on a response that begins before its charge is known: the hold, and what is left."""
    if held is None:
        return []
    return _money("farebox-hold-usd", held.estimate.amount, held.verdict.available, held)


def charge_headers(held: Held | None, settled: Settled) -> list[tuple[str, str]]:
    """Our headers on a response whose charge is known: that, and what is left; the hold where the charge is not in the
    books yet."""
    verdict = settled.verdict
    if held is None or verdict is None:
        return hold_headers(held)
    return _money("farebox-charge-usd", verdict.amount, verdict.available, held)


def _money(name: str, nanos: int, available: int, held: Held) -> list[tuple[str, str]]:
    headers = [(name, format_usd(nanos)), ("farebox-balance-usd", format_usd(available))]
    if held.output_limit is not None:
        headers.append(("farebox-output-limit", str(held.output_limit)))
    return headers
