"""One request that delivers something to an endpoint chosen by an account: the result is a value, never an exception.
Redirects are not followed."""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from farebox.clock import Clock
from farebox.http_date import http_date
from farebox.providers.upstream import Upstream, UpstreamFailed, UpstreamRequest, UpstreamResponse

TIMEOUT_SECONDS: Final = 10.0
"""Time limit for the whole request, connecting included."""
ANSWER_MAX: Final = 64 * 2**10
"""Maximum bytes of the response that are read."""
RETRY_AFTER_MAX: Final = 600.0
TO_REPEAT: Final = frozenset({429, 502, 503, 504})
"""Statuses with which an OTLP receiver says that the same request may succeed later (OTLP/HTTP, Failures)."""


class DeliveryResult(msgspec.Struct, frozen=True):
    """The result of a request."""

    status: int = 0
    """0: there was no response."""
    error: str = ""
    """A description for the operator's log; empty if the receiver accepted the request (2xx)."""
    retry_after: float = 0.0
    """Seconds that the receiver asks to wait; 0 if it does not say."""
    body: bytes = b""
    """The beginning of the response."""
    late: bool = False
    """There was no response within the time limit."""

    @property
    def ok(self) -> bool:
        return not self.error


async def send(
    upstream: Upstream,
    clock: Clock,
    method: str,
    url: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    *,
    seconds: float = TIMEOUT_SECONDS,
) -> DeliveryResult:
    """Send the request, and read the beginning of the response."""
    try:
        async with asyncio.timeout(seconds):
            response = await upstream.send(UpstreamRequest(method, url, list(headers), body))
            try:
                answer = await _beginning(response)
            finally:
                await response.close()
    except TimeoutError:
        upstream.count("timeout_answer")
        return DeliveryResult(error=f"no response within {seconds:g} seconds", late=True)
    except UpstreamFailed as failure:
        return DeliveryResult(error=f"{failure} ({failure.cause})")
    error = "" if 200 <= response.status < 300 else f"answered {response.status}"
    return DeliveryResult(response.status, error, _retry_after(response, clock), answer)


async def _beginning(response: UpstreamResponse) -> bytes:
    pieces, size = [], 0
    while size < ANSWER_MAX and (piece := await response.chunk()) is not None:
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)[:ANSWER_MAX]


def _retry_after(response: UpstreamResponse, clock: Clock) -> float:
    text = next((value for name, value in response.headers if name.lower() == "retry-after"), "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), RETRY_AFTER_MAX)
    at = http_date(text)
    return 0.0 if at is None else min(max(at - clock.now_ms() / 1000, 0.0), RETRY_AFTER_MAX)
