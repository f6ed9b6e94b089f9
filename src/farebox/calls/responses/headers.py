"""The headers of a response: which of the provider's are passed on, and our own about the call's cost."""

from itertools import compress
from operator import itemgetter
from typing import NamedTuple

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
_SHAPES_MAX, _SHAPE_BYTES_MAX = 256, 2_048
_name_of, _value_of = itemgetter(0), itemgetter(1)


class _Shape(NamedTuple):
    """What is done with headers that have certain names: a provider sends nearly the same ones with every response."""

    names: tuple[str, ...]
    """Of those that are passed on, in lower case."""
    passes: tuple[bool, ...]
    """Whether each is passed on."""
    types: tuple[int, ...]
    """The positions of `content-type`."""
    lengths: tuple[int, ...]
    """The positions of `content-length`."""


_shapes: dict[tuple[bool, tuple[str, ...]], _Shape] = {}
"""By whether the caller's own key is used, and the names as they were sent."""


def passed_headers(headers: list[tuple[str, str]], *, own_key: bool) -> tuple[list[tuple[str, str]], int | None, str]:
    """The headers that are passed on, the declared length, and the content type; empty if none is declared."""
    sent = own_key, tuple(map(_name_of, headers))
    shape = _shapes.get(sent) or _learn(*sent)
    passed = list(zip(shape.names, compress(map(_value_of, headers), shape.passes), strict=True))
    length, content_type, data = None, "", True
    for position in shape.types:
        value = headers[position][1]
        found = value.partition(";")[0].strip().lower()
        content_type = content_type or found
        data = data and found in _DATA and "," not in value
    for position in shape.lengths:
        value = headers[position][1]
        if value.isascii() and value.isdigit() and len(value) < 19:
            length = int(value)
    if own_key and not (data and content_type):
        passed.extend(_INERT)
    return passed, length, content_type


def _learn(own_key: bool, names: tuple[str, ...]) -> _Shape:
    lower = tuple(name.lower() for name in names)
    passes = tuple(_passes(name) and (own_key or name not in operator_key.HEADERS) for name in lower)
    found = _Shape(
        tuple(compress(lower, passes)),
        passes,
        tuple(position for position, name in enumerate(lower) if name == "content-type"),
        tuple(position for position, name in enumerate(lower) if name == "content-length"),
    )
    if len(_shapes) < _SHAPES_MAX and sum(map(len, names)) <= _SHAPE_BYTES_MAX:
        _shapes[own_key, names] = found
    return found


def _passes(name: str) -> bool:
    return name not in _NOT_PASSED and not name.startswith("access-control-")  # CORS is our own decision


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
