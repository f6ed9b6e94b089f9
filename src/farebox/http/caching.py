"""How a request uses its gateway's cache: as its headers say, else as the gateway is configured."""

from collections.abc import Callable
from typing import Final

from farebox.calls.cache import cached_response, key_of, serve_hit
from farebox.calls.coalescing import under_way
from farebox.calls.model import CacheUse, Call
from farebox.calls.serve import serve_call
from farebox.calls.watch import Watch
from farebox.errors import INVALID_REQUEST, Problem
from farebox.gateway import CACHE_TTL_MAX_SECONDS, ServedGateway
from farebox.http.exchange import RequestHeaders
from farebox.http.payer import flag
from farebox.http.sink import HttpSink
from farebox.quoting import quoted
from farebox.runtime.services import Services

OLD_NAMES: Final = ("cf-cache-ttl", "cf-skip-cache")
TTL_MIN_SECONDS: Final = 60
TTL_OF_KEY_SECONDS: Final = 300
"""How long a response is kept under a cache key of the caller's own if caching is otherwise off."""
KEY_MAX: Final = 512


def cache_use(headers: RequestHeaders, gateway: ServedGateway) -> CacheUse | None:
    """How the request uses the cache; None if it does not. Raises Problem."""
    key = headers.get("cf-aig-cache-key") or ""
    wanted = _ttl(headers)
    ttl = (gateway.cache_ttl or (TTL_OF_KEY_SECONDS if key else 0)) if wanted is None else wanted
    if len(key) > KEY_MAX:
        raise Problem(INVALID_REQUEST, f"cf-aig-cache-key is longer than {KEY_MAX} characters.")
    if not ttl:
        return None
    skip = headers.get("cf-aig-skip-cache")
    return CacheUse(
        ttl,
        gateway.cache_generation,
        flag(headers.get("cf-skip-cache") if skip is None else skip, default=False),
        key,
        gateway.cache_coalesce,
    )


def _ttl(headers: RequestHeaders) -> int | None:
    """The time to live in seconds that the request states; None if it states none. Raises Problem."""
    text = headers.get("cf-aig-cache-ttl")
    if text is None:
        text = headers.get("cf-cache-ttl")
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) <= len(str(CACHE_TTL_MAX_SECONDS)):
        ttl = int(text)
        if ttl == 0 or TTL_MIN_SECONDS <= ttl <= CACHE_TTL_MAX_SECONDS:
            return ttl
    raise Problem(
        INVALID_REQUEST,
        f"{quoted(text)} in cf-aig-cache-ttl is neither 0 nor a whole number of seconds from {TTL_MIN_SECONDS} to "
        f"{CACHE_TTL_MAX_SECONDS}.",
    )


async def answered_from_cache(services: Services, call: Call, sink: HttpSink, watch: Watch) -> bool:
    """Answer the call from the cache. Returns whether there was a stored response. Raises DatabaseUnavailable."""
    found = await cached_response(services, call, watch)
    if found is None:
        return False
    sink.of(call, "HIT")
    await serve_hit(services, call, sink, watch, found)
    return True


async def serve_missed(
    services: Services, call: Call, sink: HttpSink, watch: Watch, more: Callable[[], bool] | None = None
) -> bool:
    """Like `serve_call`, for a call that the cache could not answer."""
    use = call.cache
    if use is None or use.skip or not use.coalesce:
        return await serve_call(services, call, sink, watch, more)
    with under_way(services.response_cache, key_of(call, use)):
        return await serve_call(services, call, sink, watch, more)
