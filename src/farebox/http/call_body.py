"""The body of a model call: complete, without content codings, and within limits."""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from farebox.calls.large_body import check_worth_reading
from farebox.calls.watch import Interrupted, Watch
from farebox.decoding import KNOWN, BrokenCoding, Decoder, TooLarge, UnknownCoding, codings
from farebox.errors import BODY_LATE, BODY_TOO_LARGE, CODING_UNKNOWN, INVALID_REQUEST, SERVER_BYTES_FULL, Problem
from farebox.helper_processes.decode import decode_into
from farebox.http.call_target import RUN
from farebox.http.exchange import ClientGone, Exchange
from farebox.http.parse_body import in_helper
from farebox.limits.byte_budget import ByteLease
from farebox.memory_files import LARGE_BYTES, Body, LargeBody, MemoryFile, whole
from farebox.providers.catalogue import format_of, provider_of, upstream_path
from farebox.providers.provider import Plain
from farebox.runtime.services import Services

EXPANSION_MAX: Final = 200
"""Maximum ratio of a body's decoded size to its size; a mebibyte is always allowed."""
_ALWAYS: Final = 2**20
_AT_ONCE: Final = 2**16
"""Bodies up to this size are decoded on the event loop if they decode to less than this. Not brotli, which fills its
whole window before it outputs anything."""


class CallBody(msgspec.Struct, frozen=True):
    """A request body."""

    content: Body
    coded: bool = False
    """Whether it is still in a content coding that is not known here."""


async def check_credit(services: Services, method: str, account_id: str, slug: str, path: str) -> None:
    """Called before a body is read that may be large, for a call on the operator's key: see calls.large_body. `slug`,
    `path`: from the URL. Raises Problem (NO_CREDIT)."""
    if slug == "":
        return  # the steps of a universal request may have keys of their own
    if slug in ("compat", "rest", RUN):
        await check_worth_reading(services, account_id, None)
        return
    provider = provider_of(slug)
    if provider is None:
        return
    metering = format_of(provider, method, upstream_path(provider, path))
    if not isinstance(metering, Plain):  # otherwise it costs nothing, or is not accepted
        await check_worth_reading(services, account_id, provider.slug)


def received_body(services: Services, exchange: Exchange, lease: ByteLease) -> CallBody | None:
    """The request body, counted on the lease, if it has arrived with the head and has no content coding, as most do;
    otherwise None. Raises Problem (ACCOUNT_BYTES_FULL, SERVER_BYTES_FULL)."""
    if exchange.headers.get("content-encoding"):
        return None
    content = exchange.received_body(min(services.settings.body_limit_bytes, lease.largest))
    return None if content is None else CallBody(content)


async def body_of(
    services: Services, exchange: Exchange, watch: Watch, lease: ByteLease, *, any_coding: bool
) -> CallBody | None:
    """The request body, counted on the lease; None if the client has gone. With `any_coding`, a body in a content
    coding that is unknown here is left to the provider.

    Raises Problem: BODY_TOO_LARGE, BODY_LATE, CODING_UNKNOWN, INVALID_REQUEST, ACCOUNT_BYTES_FULL, SERVER_BYTES_FULL,
    READERS_BUSY, BODY_TOO_COMPLEX.
    """
    settings = services.settings
    limit = min(settings.body_limit_bytes, lease.largest)
    try:
        if exchange.complete:
            body = await exchange.content(limit)
        else:
            with watch.waiting(settings.read_timeout_ms / 1000):
                body = await exchange.content(limit)
    except ClientGone:
        return None
    except Interrupted as interrupted:
        if interrupted.reason == "client_gone":
            return None
        raise Problem(BODY_LATE, "The request body did not arrive in time.") from interrupted
    coding = exchange.headers.get("content-encoding")
    names = codings(coding) if coding else ()
    if not names:
        return CallBody(body)
    try:
        return CallBody(await _decoded(services, watch, body, names, limit, lease))
    except Interrupted:
        return None
    except UnknownCoding as error:
        if any_coding:
            return CallBody(body, coded=True)
        message = f"The content coding {error!s:.64} is not supported: send {KNOWN}, or none."
        raise Problem(CODING_UNKNOWN, message) from error


async def _decoded(
    services: Services, watch: Watch, body: Body, names: Sequence[str], limit: int, lease: ByteLease
) -> Body:
    """Decode a body. The output is counted as soon as it exists, and the input no longer: the number of bodies being
    decoded is limited to that of helper processes. Raises UnknownCoding, Problem, and Interrupted if the client has
    gone."""
    limit = min(limit, max(len(body) * EXPANSION_MAX, _ALWAYS))
    try:
        decoded: Body | None = _decode_small(body, names, limit)
        if decoded is None:
            file, account_id, raises = MemoryFile(), lease.account_id, (BrokenCoding, TooLarge)
            size = await in_helper(
                services, watch, account_id, decode_into, body, names, limit, into=file, raises=raises
            )
            decoded = LargeBody(file, ((0, size),))
        lease.take(len(decoded))
        lease.shrink(lease.size - len(body))
        return decoded if len(decoded) > LARGE_BYTES else whole(decoded)
    except BrokenCoding as error:
        raise Problem(INVALID_REQUEST, f"The body is not valid {', '.join(names)}: {error}.") from error
    except TooLarge as error:
        raise Problem(BODY_TOO_LARGE, f"Decoded, the body exceeds {limit} bytes.") from error
    except OSError as error:
        raise Problem(SERVER_BYTES_FULL, "The server has no memory left to decode the body.") from error


def _decode_small(body: Body, names: Sequence[str], limit: int) -> bytes | None:
    """The decoded body if that is quick, else None. Raises UnknownCoding, BrokenCoding, TooLarge."""
    decoder = Decoder(names)
    if not body:
        return b""
    if not isinstance(body, bytes) or len(body) > _AT_ONCE or "br" in names:
        return None
    decoded = _more(decoder.feed(body, limit), _AT_ONCE)
    if len(decoded) >= _AT_ONCE:
        return None
    decoder.close()
    return decoded


def _more(coming: Iterator[bytes], most: int) -> bytes:
    """The next pieces, about this many bytes; fewer at the end."""
    pieces: list[bytes] = []
    size = 0
    for piece in coming:
        if piece:
            pieces.append(piece)
            size += len(piece)
            if size >= most:
                break
    return b"".join(pieces)
