"""The body of a model call: all of it, without the codings it was sent in, within bounds."""

import asyncio
from typing import Final

import msgspec

from farebox.decoding import KNOWN, BrokenCoding, TooLarge, UnknownCoding, codings, decode
from farebox.errors import BODY_LATE, BODY_TOO_LARGE, CODING_UNKNOWN, INVALID_REQUEST, Problem
from farebox.http.exchange import ClientGone, Exchange
from farebox.settings import Settings
from farebox.usecases.watch import Interrupted, Watch

EXPANSION_MAX: Final = 200
"""How many times its size a body may decode to; a mebibyte it may always."""
_ALWAYS: Final = 2**20
_AT_ONCE: Final = 2**16
"""Up to so many bytes are decoded on the event loop."""


class CallBody(msgspec.Struct, frozen=True):
    """A request body."""

    content: bytes
    coded: bool = False
    """Whether it is still in a coding that is not known here."""


async def body_of(exchange: Exchange, watch: Watch, settings: Settings, *, any_coding: bool) -> CallBody | None:
    """The request body; None where the client has gone. With `any_coding`, one that is not known here is left to the
    provider. Raises Problem: BODY_TOO_LARGE, BODY_LATE, CODING_UNKNOWN, INVALID_REQUEST."""
    try:
        with watch.waiting(settings.read_timeout_ms / 1000):
            body = await exchange.body(settings.body_limit_bytes)
    except ClientGone:
        return None
    except Interrupted as interrupted:
        if interrupted.reason == "client_gone":
            return None
        raise Problem(BODY_LATE, "The request body did not arrive in time.") from interrupted
    coding = exchange.headers.get("content-encoding")
    names = codings(coding)
    if not names:
        return CallBody(body)
    try:
        return CallBody(await _decoded(body, names, settings.body_limit_bytes))
    except UnknownCoding as error:
        if any_coding:
            return CallBody(body, coded=True)
        message = f"The content coding {error!s:.64} is not known: send {KNOWN}, or none."
        raise Problem(CODING_UNKNOWN, message) from error


async def _decoded(body: bytes, names: list[str], limit: int) -> bytes:
    """Raises UnknownCoding and Problem: BODY_TOO_LARGE, INVALID_REQUEST."""
    limit = min(limit, max(len(body) * EXPANSION_MAX, _ALWAYS))
    try:
        if len(body) <= _AT_ONCE:
            return decode(body, names, limit)
        return await asyncio.to_thread(decode, body, names, limit)
    except BrokenCoding as error:
        raise Problem(INVALID_REQUEST, f"The body is not whole {', '.join(names)}: {error}.") from error
    except TooLarge as error:
        raise Problem(BODY_TOO_LARGE, f"Decoded, the body has more than {limit} bytes.") from error
