"""Reading a response on after its client gets no more of it, as far as its usage can still arrive."""

import asyncio
from typing import Final

from farebox.calls.endings import CONNECTION_FAILED
from farebox.calls.stages import Responded
from farebox.pricing.unseen import has_unreported_cost
from farebox.providers.formats.base import ResponseReader
from farebox.providers.upstream import UpstreamFailed, UpstreamResponse

DRAIN_SECONDS: Final = 5.0
"""How long to read on after the client has left, if only the usage can follow."""
UNREPORTED_SECONDS: Final = 120.0
"""The same if only the end of the response shows what was read: input that the request does not show."""
UNREPORTED_BYTES_MAX: Final = 2**26
AFTER_END_MAX: Final = 2**20
"""Maximum bytes that are read of a response beyond its end, or after its client has left."""


async def drain_response(
    stage: Responded, response: UpstreamResponse, reader: ResponseReader | None, cut: str
) -> str | None:
    """Read on after the client has left, or gets no more (`cut` says which). If every choice has ended, only the usage
    can follow, and this waits for it. It also waits if only the end shows what was read: otherwise a client could avoid
    paying for unseen input by disconnecting in time. Returns why the call is interrupted, or None."""
    metered = stage.metered
    if reader is None or metered is None:
        return cut
    over = reader.finished
    if over:
        return cut
    settings = stage.context.services.settings
    charged = stage.held is not None and settings.cut_stream != "free"
    hidden = charged and has_unreported_cost(metered.parsed.demand, input_reported=reader.input_reported)
    if not hidden and not reader.all_ended:
        return cut
    left, seconds = AFTER_END_MAX, DRAIN_SECONDS
    if hidden:  # within the call's maximum duration, because its hold expires soon after
        rest = (settings.call_timeout_ms - stage.context.elapsed_ms()) / 1000
        left, seconds = UNREPORTED_BYTES_MAX, max(DRAIN_SECONDS, min(UNREPORTED_SECONDS, rest))
    try:
        async with asyncio.timeout(seconds):
            while left > 0 and not over:
                chunk = await response.chunk()
                if chunk is None:
                    return None
                left -= len(chunk)
                stage.logged.keep(chunk)
                reader.feed(chunk)
                over = reader.finished
    except TimeoutError:
        return cut
    except UpstreamFailed as failure:
        return f"{CONNECTION_FAILED} ({failure})" if hidden else cut
    return None if over else cut
