"""Identical calls at once, where the gateway asks for it: one goes to the provider and pays, the others wait for it.

They get its response as a hit once it is complete and settled. Where it brings none (it fails, is cut off, or has none
that may be given again), and where it takes too long, each of them goes on by itself. Each process is on its own.
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
    """The response of the call under way with this key; None if there is no such call, or it brings none. Raises
    Interrupted if the caller goes meanwhile."""
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
    """In the block the call with this key is served, unless one is already: others may wait for its response."""
    flights = cache.flights
    if key in flights:  # this one has waited for it long enough
        yield
        return
    flight = flights[key] = asyncio.get_running_loop().create_future()
    try:
        yield
    finally:
        del flights[key]
        if not flight.done():
            flight.set_result(None)
