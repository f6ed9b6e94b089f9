"""What is read of a response whose client gets no more of it: its usage, as far as that can still come."""

import asyncio
from typing import Final

from farebox.calls.endings import CONNECTION_FAILED
from farebox.calls.stages import Responded
from farebox.pricing.unseen import has_unreported_cost
from farebox.providers.formats.base import ResponseReader
from farebox.providers.upstream import UpstreamFailed, UpstreamResponse

READ_ON_SECONDS: Final = 5.0
"""How long a response is read on whose client has left, if all that can follow is its usage."""
UNREPORTED_SECONDS: Final = 120.0
"""The same, if only its end shows what was read: input that the request does not show."""
UNREPORTED_BYTES_MAX: Final = 2**26
AFTER_END_MAX: Final = 2**20
"""Bytes that are read of a response beyond its end, or after its client has left."""


async def read_on(stage: Responded, response: UpstreamResponse, reader: ResponseReader | None, cut: str) -> str | None:
    """The client has left, or gets no more (`cut` says which). If every choice has ended, only the usage can follow,
    and it is waited for; if only the end shows what was read, so is that: otherwise a client that hangs up in time
    would not pay for unseen input. Returns why the call is interrupted, or None."""
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
    left, seconds = AFTER_END_MAX, READ_ON_SECONDS
    if hidden:  # within the call's time, because its hold ends soon after
        rest = (settings.call_timeout_ms - stage.context.elapsed_ms()) / 1000
        left, seconds = UNREPORTED_BYTES_MAX, max(READ_ON_SECONDS, min(UNREPORTED_SECONDS, rest))
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
