"""Relaying the response to the request that begins a long call: a description, or a stream that may be left and
resumed. Neither ends the hold."""

import contextlib

import msgspec

from farebox.calls import operator_key
from farebox.calls.endings import interruption_of
from farebox.calls.long_calls.long_calls import check_soon, process_description, record_accepted, record_refused
from farebox.calls.long_calls.stored_objects import document
from farebox.calls.ownership import as_shown
from farebox.calls.relaying.headers import hold_headers, passed_headers
from farebox.calls.relaying.relay import relay_response
from farebox.calls.relaying.screened_stream import screened_stream
from farebox.calls.stages import Responded
from farebox.calls.watch import Interrupted
from farebox.decoding import UnknownCoding
from farebox.errors import UPSTREAM_INVALID, ClientGone, Problem
from farebox.providers.decoding import decoded
from farebox.providers.sse import BYTE_ORDER_MARK
from farebox.providers.upstream import UpstreamFailed, UpstreamResponse
from farebox.quoting import quoted
from farebox.storage.long_calls import LongCall

_FIRST_MAX = 2**20
"""Bytes of a stream within which its ID must be found."""


async def relay_begun(stage: Responded, kind: str = "response") -> None:
    """Pass on the provider's response about the work it has begun. Raises Problem, DatabaseUnavailable: the hold is
    then that of a call in doubt."""
    if stage.response.status >= 300:
        await relay_response(stage)
        await record_refused(stage)
        return
    content_type = next((value for name, value in stage.response.headers if name.lower() == "content-type"), "")
    if content_type.partition(";")[0].strip().lower() == "text/event-stream":
        await _relay_stream(stage)
        return
    headers, body = await document(stage)
    long = await record_accepted(stage, kind, body)
    if kind != "batch":
        await process_description(stage.context.services, long, body)
    screening = stage.context.screening
    problem = None if screening is None else await screening.response(body, stage.logged.response_type)
    if problem is not None:
        raise problem
    body = as_shown(stage.context.services, stage.context.call, body)
    stage.context.sink.respond(stage.response.status, headers + hold_headers(stage.held), body)


async def _relay_stream(stage: Responded) -> None:
    """Pass the stream on once its first event has given the ID. Raises Problem, DatabaseUnavailable."""
    context = stage.context
    try:
        response = operator_key.without_key(context, decoded(stage.response))
    except UnknownCoding as coding:
        raise Problem(UPSTREAM_INVALID, f"The stream is encoded as {quoted(str(coding))}.") from coding
    if screened_stream(stage) is not None:
        await response.close()  # the work goes on; its result is screened when it is fetched
        raise Problem(
            UPSTREAM_INVALID, "The gateway's rules do not allow a stream in the background: fetch the response."
        )
    headers, _, _ = passed_headers(response.headers, own_key=False)
    long = None
    try:
        first, long = await _begun(stage, response)
        stream = context.sink.start(stage.response.status, headers + hold_headers(stage.held))
        try:
            with context.watch.waiting(context.services.settings.read_timeout_ms / 1000):
                await stream.send(first)
                while (chunk := await response.chunk()) is not None:
                    context.watch.progress()
                    await stream.send(operator_key.clean_events(stage, chunk))
        except (Interrupted, ClientGone, UpstreamFailed) as error:
            why = interruption_of(error, sending=False)
            with contextlib.suppress(ClientGone):
                broken = Problem(UPSTREAM_INVALID, f"The stream broke off: {why}. The response goes on.")
                await stream.send(context.sink.broken(broken))
    finally:
        await response.close()
        if long is not None:
            await check_soon(context.services, long)


async def _begun(stage: Responded, response: UpstreamResponse) -> tuple[bytes, LongCall]:
    """The beginning of the stream, including its first event. Raises Problem, DatabaseUnavailable."""
    context, first = stage.context, b""
    try:
        with context.watch.waiting(context.services.settings.read_timeout_ms / 1000):
            while (described := _first_response(first)) is None:
                chunk = await response.chunk()
                if chunk is None or len(first) > _FIRST_MAX:
                    raise Problem(UPSTREAM_INVALID, f"{context.call.provider} did not return the ID of the work.")
                context.watch.progress()
                first += chunk
    except (Interrupted, UpstreamFailed) as error:
        raise Problem(UPSTREAM_INVALID, f"The response of {context.call.provider} broke off.") from error
    return first, await record_accepted(stage, "response", described)


def _first_response(events: bytes) -> bytes | None:
    """The response described by the first complete event; None if none has arrived."""
    for line in events.removeprefix(BYTE_ORDER_MARK).splitlines(keepends=True):
        if line.startswith(b"data:") and line.endswith((b"\n", b"\r")):
            try:
                return bytes(msgspec.json.decode(line[5:].strip(), type=_Event).response)
            except ValueError:
                continue
    return None


class _Event(msgspec.Struct):
    response: msgspec.Raw
