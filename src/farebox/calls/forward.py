"""Reach the provider: send the request, and send it again where that is safe or configured, until a response begins."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeAlias

import structlog
from msgspec.structs import replace

from farebox import backoff
from farebox.calls.attempts import attempt_of
from farebox.calls.endings import CALLER_TIMEOUT, INTERRUPTED, OPERATOR_TIMEOUT
from farebox.calls.exports.notes import with_notes
from farebox.calls.key_selection import REFUSED, another_key, note_use, pause_key
from farebox.calls.logged_body import LoggedBody
from farebox.calls.model import Call, KeyChoice, Try
from farebox.calls.operator_key import check_response
from farebox.calls.request_signature import has_stale_token, no_token, with_signature
from farebox.calls.stages import Admitted, CallContext, Responded
from farebox.calls.unlisted import with_max_price
from farebox.calls.unpaid import count_unpaid
from farebox.calls.watch import Interrupted
from farebox.errors import (
    ADDRESS_REFUSED,
    TOO_MANY_CALLS,
    UPSTREAM_INVALID,
    UPSTREAM_TIMEOUT,
    UPSTREAM_UNREACHABLE,
    Problem,
)
from farebox.memory_files import Body
from farebox.providers.cloud_tokens import TokenRefused
from farebox.providers.outline import apply_edit
from farebox.providers.signing import Signing
from farebox.providers.upstream import Cause, SendProgress, UpstreamFailed, UpstreamRequest, UpstreamResponse

PAUSES_MAX_SECONDS = 120.0
"""Maximum time that all pauses between the attempts of one call may take, because it occupies its place and its hold
meanwhile: an attempt that would come later is not made."""
_PAUSE_MAX_MS = 60_000
_TOO_LATE = frozenset({504, 524})
"""A proxy between us and the provider has timed out; the provider may still have processed the request."""

_Send: TypeAlias = Callable[[Admitted, UpstreamRequest], Awaitable[UpstreamResponse]]

log = structlog.get_logger("farebox.calls")


async def reach_provider(stage: Admitted) -> Responded:
    """The first response that no further attempt is to replace, once its head has arrived, without what is only for the
    operator. Raises Problem, Interrupted, providers.formats.base.InvalidRequest."""
    context, attempts, call = stage.context, stage.attempts, stage.context.call
    request = UpstreamRequest(call.method, call.url, call.headers, _body(stage), SendProgress(), call.sent_head)
    attempt, unsent_retries, paused = 1, 1, 0.0
    send = _send
    if call.gateway.otel is not None:
        stage, send = with_notes(stage), _noted
    while True:
        last = attempt >= call.attempts_max or paused + _pause_seconds(call, attempt) > PAUSES_MAX_SECONDS
        try:
            key = attempts.key
            signing = call.signing if key is None else key.signing
            response = await (send(stage, request) if signing is None else _signed(stage, request, signing, send))
        except TokenRefused as refused:
            attempts.key, request = _after_no_token(stage, request, refused)
            continue
        except UpstreamFailed as failure:
            if not failure.sent and not failure.timeout and unsent_retries:
                unsent_retries -= 1  # nothing reached the provider: one more attempt is harmless
                continue
            if last or (attempts.given_up and not _may_run_twice(context)):
                raise unreachable(call, failure) from failure
            if attempts.given_up:
                count_unpaid(stage, 0)
                attempts.given_up = ""
            attempts.failed += (attempt_of(stage, None, failure.cause),)
        else:
            if call.keys and (other := await _with_another_key(stage, request, response)) is not None:
                attempts.key, request = other
                continue
            if last or not await _to_repeat(context, response):
                break
            attempts.failed += (attempt_of(stage, response.status),)
        pause = _pause_seconds(call, attempt)
        with context.watch.waiting(pause + 1):
            await context.services.clock.sleep(pause)
        attempt, paused = attempt + 1, paused + pause
    attempts.status, attempts.first_byte_ms = response.status, context.elapsed_ms()
    if response.status >= 400:
        response = await check_response(context, response)
    logged = LoggedBody(context.services.settings.log_body_limit_bytes if call.logged and call.log_bodies else -1)
    return Responded(context, stage.metered, stage.terms, stage.held, attempts, stage.counts, response, logged)


async def _signed(stage: Admitted, request: UpstreamRequest, signing: Signing, send: _Send) -> UpstreamResponse:
    """One attempt with its signature or token. A token that is no longer accepted is replaced once. Raises
    TokenRefused, UpstreamFailed, Interrupted."""
    context = stage.context
    ready = await with_signature(context, request, signing)
    response = await send(stage, ready)
    if response.status == 401 and has_stale_token(context, ready, signing):
        await response.close()
        response = await send(stage, await with_signature(context, request, signing))
    return response


async def _send(stage: Admitted, request: UpstreamRequest) -> UpstreamResponse:
    """One attempt. Raises UpstreamFailed, Interrupted."""
    context, services = stage.context, stage.context.services
    upstream = services.upstream if context.call.access.custom is None else services.custom_upstream
    wait = (context.call.request_timeout_ms or services.settings.first_byte_timeout_ms) / 1000
    request.sending.whole = False
    try:
        with context.watch.waiting(wait):
            return await upstream.send(request)
    except Interrupted as interrupted:
        late, sent = interrupted.reason == "silence", request.sending.whole
        if sent:
            limit = OPERATOR_TIMEOUT if context.call.request_timeout_ms is None else CALLER_TIMEOUT
            stage.attempts.given_up = limit if late else INTERRUPTED[interrupted.reason]
        if not late:
            raise
        cause: Cause = "timeout_answer" if sent else "timeout_connect"
        upstream.count(cause)
        raise UpstreamFailed(f"no response began within {wait:g} seconds", sent=sent, cause=cause) from interrupted


async def _noted(stage: Admitted, request: UpstreamRequest) -> UpstreamResponse:
    """One attempt, recorded for the call's span. Raises UpstreamFailed, Interrupted."""
    context, began = stage.context, stage.context.elapsed_ms()
    notes = stage.attempts.notes
    assert notes is not None, "span notes exist where attempts are recorded"
    try:
        response = await _send(stage, request)
    except UpstreamFailed as failure:
        notes.tries.append(Try(began, context.elapsed_ms(), 0, failure.cause))
        raise
    notes.tries.append(Try(began, context.elapsed_ms(), response.status, ""))
    return response


def _after_no_token(stage: Admitted, request: UpstreamRequest, refused: TokenRefused) -> "_Another":
    """Another key, because no token can be had for the one in use. Raises Problem."""
    problem = no_token(stage.context, refused)
    line = attempt_of(stage, None, problem.kind.name)
    other = _other_key(stage, request, 401, []) if stage.context.call.keys else None
    if other is None:
        raise problem from refused
    stage.attempts.failed += (line,)
    return other


_Another: TypeAlias = tuple[KeyChoice, UpstreamRequest]
"""Another key, and the request with it."""


async def _with_another_key(stage: Admitted, request: UpstreamRequest, response: UpstreamResponse) -> _Another | None:
    """If the key was refused or rate limited: another key to try; the response is then closed. None: the response
    stands. Raises Interrupted."""
    context, attempts = stage.context, stage.attempts
    if response.status not in REFUSED:
        return None
    other = _other_key(stage, request, response.status, response.headers)
    if other is None:
        return None
    with suppress(Problem):  # the operator gets an alarm if it is the operator's key
        await check_response(context, response)
    await response.close()
    note_use(context.services, context.call, attempts.refused[-1], context.services.clock.now_ms())
    attempts.failed += (attempt_of(stage, response.status),)
    return other


def _other_key(
    stage: Admitted, request: UpstreamRequest, status: int, headers: list[tuple[str, str]]
) -> _Another | None:
    """Another key to try, because the one in use got this response, for which it is then paused. None if there is no
    other."""
    call, services, attempts = stage.context.call, stage.context.services, stage.attempts
    refused = call.key_id if attempts.key is None else attempts.key.key_id
    pause_key(services, call, refused, status, headers)
    attempts.refused += (refused,)
    key = another_key(services, call, attempts.refused)
    return None if key is None else (key, replace(request, headers=key.headers, head=key.sent_head))


def _may_run_twice(context: CallContext) -> bool:
    """Whether a request may be sent again although the provider may still be processing it, and bill it."""
    return context.call.own_key or context.services.settings.retry_timeouts == "allow"


async def _to_repeat(context: CallContext, response: UpstreamResponse) -> bool:
    """Whether another attempt may do better than this response, which is then closed. Raises Problem
    (PROVIDER_UNAVAILABLE) if none can, because the operator's key is refused or has no credit; Interrupted."""
    if response.status != 429 and response.status < 500:
        return False
    if response.status in _TOO_LATE and not _may_run_twice(context):
        return False
    try:
        await check_response(context, response)
    except Problem as problem:
        if problem.kind is not UPSTREAM_INVALID:
            raise
    await response.close()
    return True


def _body(stage: Admitted) -> Body:
    """The request's body, limited to what is held for it. Raises InvalidRequest."""
    call, held, terms = stage.context.call, stage.held, stage.terms
    body, outline = call.body, call.outline
    if held is None or terms is None:
        return body
    if held.output_limit is not None:
        body, outline = apply_edit(body, outline, partial(terms.wire.limit_output, tokens=held.output_limit))
    if terms.price.bounded:
        body, _ = apply_edit(body, outline, partial(with_max_price, settings=stage.context.services.settings))
    return body


def _pause_seconds(call: Call, attempt: int) -> float:
    """The pause before an attempt, as the caller chose: constant, growing by the same step, or doubling."""
    if call.retry_backoff == "exponential":
        return backoff.doubling(attempt, call.retry_delay_ms, _PAUSE_MAX_MS) / 1000
    factor = attempt if call.retry_backoff == "linear" else 1
    return min(call.retry_delay_ms * factor, _PAUSE_MAX_MS) / 1000


def unreachable(call: Call, failure: UpstreamFailed) -> Problem:
    """The error for the caller: a word for the cause, and nothing about the network route. The operator's log has
    more."""
    provider, cause = call.provider, failure.cause
    log.warning("upstream failed", log_id=call.log_id, provider=provider, cause=cause, why=str(failure))
    if cause == "address_refused":
        words = f"The base URL of {provider} leads to no address that may be called from here. Nothing was charged."
        return Problem(ADDRESS_REFUSED, words, reason=cause)
    if failure.timeout:
        return Problem(UPSTREAM_TIMEOUT, f"{provider} did not answer in time ({cause}).", reason=cause)
    if cause == "exhausted":
        words = f"The server has no room for a connection to {provider} ({cause}). Nothing was charged."
        return Problem(TOO_MANY_CALLS, words, retry_after=1, reason=cause)
    found = "gave no answer" if failure.sent else "could not be reached"
    return Problem(UPSTREAM_UNREACHABLE, f"{provider} {found} ({cause}). Nothing was charged.", reason=cause)
