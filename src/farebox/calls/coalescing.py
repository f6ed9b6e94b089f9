"""Concurrent identical calls, if the gateway asks for this: one goes to the provider and pays, the others wait for it.

They get its response as a cache hit once it is complete and settled. If it has no reusable response (it fails or is cut
off, for example), or takes too long, each waiting call goes to the provider itself. Each process does this on its own.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from farebox.calls.watch import Interrupted, Watch
from farebox.runtime.response_cache import ResponseCache
from farebox.storage.cached_responses import CachedResponse

WAIT_SECONDS: Final = 60.0


async def response_of_another(cache: ResponseCache, key: str, watch: Watch) -> CachedResponse | None:
    """The response of the call under way with this key; None if there is no such call, or it has no reusable response.
    Raises Interrupted if the waiting caller disconnects."""
    flight = cache.flights.get(key)
    if flight is None:
        return None
    try:
        with watch.waiting(WAIT_SECONDS):
            return await asyncio.shield(flight)
    except Interrupted as interrupted:
        if interrupted.reason == "client_gone":
            raise
        return None


@contextmanager
def under_way(cache: ResponseCache, key: str) -> Iterator[None]:
    """Within this block, the call with this key is under way, and others may wait for its response; without effect if
    another call with the key already is."""
    flights = cache.flights
    if key in flights:  # this call has waited for the other long enough
        yield
        return
    flight = flights[key] = asyncio.get_running_loop().create_future()
    try:
        yield
    finally:
        del flights[key]
        if not flight.done():
            flight.set_result(None)
