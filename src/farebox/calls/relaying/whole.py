"""Responses in one piece: those that have arrived completely, and failures in the form of a successful response."""

import asyncio
from decimal import Decimal
from typing import Final

from msgspec.structs import replace

from farebox.calls import operator_key
from farebox.calls.buffered_response import FREE
from farebox.calls.cache import remember
from farebox.calls.endings import SERVER_STOPPED, Ending
from farebox.calls.envelope import in_envelope
from farebox.calls.relaying.headers import charge_headers, passed_headers
from farebox.calls.screening.screen import Screening
from farebox.calls.settle import end_without_response, settle_call
from farebox.calls.stages import Metered, Responded
from farebox.errors import Problem
from farebox.providers.decoding import is_coded
from farebox.providers.formats.base import Observed, with_stated
from farebox.providers.formats.readers import BodyReader

_DOCUMENT: Final = (b"{", b"[")


def read_document(stage: Responded) -> tuple[Observed, list[tuple[str, str]], bytes] | None:
    """What was read of the response, with the headers and body to pass on, if it is a small metered document that has
    arrived completely, as most have; otherwise None."""
    metered, response, context = stage.metered, stage.response, stage.context
    if metered is None or metered.parsed.stream or response.status >= 400 or context.watch.client_gone:
        return None
    body = response.whole()
    if body is None or len(body) > FREE or not body.startswith(_DOCUMENT) or is_coded(response):
        return None
    if not operator_key.passes_unchanged(context, response, body):
        return None
    passed, _, content_type = passed_headers(response.headers, own_key=context.call.own_key)
    if content_type == "text/event-stream":
        return None
    stage.logged.response_type = content_type
    observed, body = _read(stage, metered, body)
    return observed, passed, body


def _read(stage: Responded, metered: Metered, body: bytes) -> tuple[Observed, bytes]:
    stage.logged.keep(body)
    parsed = with_stated(metered.parsed, metered.wire, stage.response.headers)
    reader = metered.wire.reader(parsed, streaming=False, hide_usage=not parsed.usage_requested)
    if isinstance(reader, BodyReader):
        observed = reader.whole(body)
    else:
        passed = reader.feed(body)
        tail, observed = reader.close()
        body = passed + tail
    return observed, body


async def send_whole(stage: Responded, observed: Observed, headers: list[tuple[str, str]], body: bytes) -> None:
    """Settle a call whose response has arrived completely, and respond. Raises Problem (PROVIDER_UNAVAILABLE), also if
    a rule of the gateway blocks the response, which is still charged, as it was generated."""
    if observed.failed:
        body = await _checked_failure(stage, body)
    blocked = None
    if stage.context.screening is not None and stage.response.status < 400:
        blocked = await _judged(stage, stage.context.screening, observed, body)
    settled = await settle_call(stage, observed, None, blocked=blocked)
    if blocked is not None:
        raise blocked
    if stage.context.call.cache is not None:
        remember(stage, observed, headers, body)
    if stage.context.call.enveloped:
        body = in_envelope(stage.context.call, stage.response.status, body)
    stage.context.sink.respond(stage.response.status, headers + charge_headers(stage.held, settled), body)


async def _judged(stage: Responded, screening: Screening, observed: Observed, body: bytes) -> Problem | None:
    """The error to return in place of a response that screening blocks."""
    try:
        return await screening.response(body, stage.logged.response_type)
    except asyncio.CancelledError:  # the server stops
        await settle_call(stage, undelivered(observed), SERVER_STOPPED)
        raise


def undelivered(observed: Observed) -> Observed:
    """The same observation for a response of which nothing has been sent."""
    return replace(
        observed,
        complete=False,
        delivered_bytes=0,
        text="",
        sound_seconds=Decimal(0),
        image_tokens_delivered=0,
        empty=True,
    )


async def _checked_failure(stage: Responded, body: bytes) -> bytes:
    """The body of a failure, as far as it may be passed on. Raises Problem (PROVIDER_UNAVAILABLE)."""
    found = operator_key.checked_body(stage, body)
    if isinstance(found, Problem):
        await end_without_response(stage, Ending("refused"), found)
        raise found
    return found
