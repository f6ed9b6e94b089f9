"""The headers of a response: which of the provider's are passed on, and our own about the call's cost."""

from farebox.calls import operator_key
from farebox.calls.state import CallState
from farebox.ledger.commands import Verdict
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
        "cache-control",
        "cdn-cache-control",
        "clear-site-data",
        "expires",
        "pragma",
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
_NAMES_MAX, _NAME_MAX = 1024, 64
_names: dict[str, tuple[str, bool]] = {}
"""Names of headers that answers had: in lower case, and whether they are passed on."""


def passed_headers(state: CallState, headers: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], int | None]:
    """The headers that are passed on, and the declared length; the content type is noted."""
    passed, length, own_key = [], None, state.call.own_key
    for name, value in headers:
        lower, passes = _names.get(name) or _learn(name)
        if passes and (own_key or lower not in operator_key.HEADERS):
            passed.append((lower, value))
            if lower == "content-type" and not state.response_type:
                state.response_type = value.partition(";")[0].strip().lower()
        elif lower == "content-length" and value.isascii() and value.isdigit():
            length = int(value)
    return passed, length


def _learn(name: str) -> tuple[str, bool]:
    lower = name.lower()
    found = lower, lower not in _NOT_PASSED and not lower.startswith("access-control-")  # who may read it, we say
    if len(_names) < _NAMES_MAX and len(name) <= _NAME_MAX:
        _names[name] = found
    return found


def money_headers(state: CallState, verdict: Verdict | None) -> list[tuple[str, str]]:
    """Our headers: the charge where it is known by now, else the hold; and what is left."""
    if state.held is None:
        return []
    if verdict is None:
        headers = [
            ("farebox-hold-usd", format_usd(state.held.estimate.amount)),
            ("farebox-balance-usd", format_usd(state.held.verdict.available)),
        ]
    else:
        headers = [
            ("farebox-charge-usd", format_usd(verdict.amount)),
            ("farebox-balance-usd", format_usd(verdict.available)),
        ]
    if state.held.output_limit is not None:
        headers.append(("farebox-output-limit", str(state.held.output_limit)))
    return headers
