"""Responses in one piece: those that have arrived completely, and failures that come as a good response."""

from typing import Final

from farebox.calls import operator_key
from farebox.calls.buffered_response import FREE
from farebox.calls.cache import remember
from farebox.calls.endings import EarlyEnd
from farebox.calls.envelope import in_envelope
from farebox.calls.response_headers import charge_headers, passed_headers
from farebox.calls.settle import end_without_response, settle_call
from farebox.calls.stages import Metered, Responded
from farebox.errors import Problem
from farebox.providers.decoding import is_coded
from farebox.providers.formats.readers import BodyReader

_DOCUMENT: Final = (b"{", b"[")


def document_of(stage: Responded) -> tuple[Metered, list[tuple[str, str]], bytes] | None:
    """How the response is read, and its headers and body as they are passed on, if it is a small document to be metered
    that has arrived completely, as most have; otherwise None."""
    metered, response, context = stage.metered, stage.response, stage.context
    if metered is None or metered.parsed.stream or response.status >= 400 or context.watch.client_gone:
        return None
    body = response.whole()
    if body is None or len(body) > FREE or not body.startswith(_DOCUMENT) or is_coded(response):
        return None
    headers = operator_key.headers_without_key(context.call, response, body)
    if headers is None:
        return None
    passed, _, content_type = passed_headers(headers, own_key=context.call.own_key)
    if content_type == "text/event-stream":
        return None
    stage.logged.response_type = content_type
    return metered, passed, body


async def respond_whole(stage: Responded, metered: Metered, headers: list[tuple[str, str]], body: bytes) -> None:
    """Settle, and respond with the charge in a header. Raises Problem (PROVIDER_UNAVAILABLE)."""
    stage.logged.keep(body)
    parsed = metered.parsed
    reader = metered.wire.reader(parsed, streaming=False, hide_usage=not parsed.usage_requested)
    if isinstance(reader, BodyReader):
        observed = reader.whole(body)
    else:
        passed = reader.feed(body)
        tail, observed = reader.close()
        body = passed + tail
    if observed.failed:
        body = await checked_failure(stage, body)
    settled = await settle_call(stage, observed, None)
    if stage.context.call.cache is not None:
        remember(stage, observed, headers, body)
    body = in_envelope(stage.context.call, stage.response.status, body)
    stage.context.sink.respond(stage.response.status, headers + charge_headers(stage.held, settled), body)


async def checked_failure(stage: Responded, body: bytes) -> bytes:
    """The body of a failure, as far as it may be passed on. Raises Problem (PROVIDER_UNAVAILABLE)."""
    found = operator_key.checked_body(stage, body)
    if isinstance(found, Problem):
        await end_without_response(stage, EarlyEnd("refused"), found)
        raise found
    return found
