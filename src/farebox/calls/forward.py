"""Reach the provider: send the request, again where that is safe or configured, until a response begins."""

from functools import partial

import structlog

from farebox import backoff
from farebox.calls.model import Call
from farebox.calls.operator_key import checked
from farebox.calls.state import OPERATORS_TIME, OWN_TIME, REASONS, CallState
from farebox.calls.unlisted import with_max_price
from farebox.calls.unpaid import count_unpaid
from farebox.calls.watch import Interrupted
from farebox.errors import TOO_MANY_CALLS, UPSTREAM_INVALID, UPSTREAM_TIMEOUT, UPSTREAM_UNREACHABLE, Problem
from farebox.memfile import Body
from farebox.providers.outline import edited
from farebox.providers.upstream import Cause, Sending, UpstreamFailed, UpstreamRequest, UpstreamResponse

PAUSES_MAX_SECONDS = 120.0
"""How long all pauses between the attempts of one call may take together, because it keeps its place and its hold
meanwhile: an attempt that comes later is not made."""
_PAUSE_MAX_MS = 60_000
_TOO_LATE = frozenset({504, 524})
"""What stands between us and the provider has waited in vain; the provider may have been at work all the same."""

log = structlog.get_logger("farebox.calls")


async def reach_provider(state: CallState) -> UpstreamResponse:
    """The response whose head has come. Raises Problem, Interrupted, providers.formats.base.InvalidRequest."""
    call = state.call
    request = UpstreamRequest(call.method, call.url, call.headers, _body(state), Sending(), call.sent_head)
    attempt, unsent_retries, paused = 1, 1, 0.0
    while True:
        last = attempt >= call.attempts_max or paused + _pause_seconds(call, attempt) > PAUSES_MAX_SECONDS
        try:
            response = await _send(state, request)
        except UpstreamFailed as failure:
            if not failure.sent and not failure.timeout and unsent_retries:
                unsent_retries -= 1  # nothing reached the provider: once more can do no harm
                continue
            if last or (state.given_up and not _may_run_twice(state)):
                raise _unreachable(state, failure) from failure
            if state.given_up:
                count_unpaid(state, 0)
                state.given_up = ""
        else:
            if last or not await _to_repeat(state, response):
                state.status = response.status
                state.first_byte_ms = state.elapsed_ms()
                return response
        pause = _pause_seconds(call, attempt)
        with state.watch.waiting(pause + 1):
            await state.services.clock.sleep(pause)
        attempt, paused = attempt + 1, paused + pause


async def _send(state: CallState, request: UpstreamRequest) -> UpstreamResponse:
    wait = (state.call.request_timeout_ms or state.services.settings.first_byte_timeout_ms) / 1000
    request.sending.whole = False
    try:
        with state.watch.waiting(wait):
            return await state.services.upstream.send(request)
    except Interrupted as interrupted:
        late, sent = interrupted.reason == "silence", request.sending.whole
        if sent:
            limit = OPERATORS_TIME if state.call.request_timeout_ms is None else OWN_TIME
            state.given_up = limit if late else REASONS[interrupted.reason]
        if not late:
            raise
        cause: Cause = "timeout_answer" if sent else "timeout_connect"
        state.services.upstream.count(cause)
        raise UpstreamFailed(f"no response began within {wait:g} seconds", sent=sent, cause=cause) from interrupted


def _may_run_twice(state: CallState) -> bool:
    """Whether a request may be sent again although the provider may still be at work on it, and bill it."""
    return state.call.own_key or state.services.settings.retry_timeouts == "allow"


async def _to_repeat(state: CallState, response: UpstreamResponse) -> bool:
    """Whether another attempt may do better than this response; it is then over. Raises Problem (PROVIDER_UNAVAILABLE)
    where none can, because it is the operator's key that is refused, or has no credit; Interrupted."""
    if response.status != 429 and response.status < 500:
        return False
    if response.status in _TOO_LATE and not _may_run_twice(state):
        return False
    try:
        await checked(state, response)
    except Problem as problem:
        if problem.kind is not UPSTREAM_INVALID:
            raise
    await response.close()
    return True


def _body(state: CallState) -> Body:
    """The request's body, limited to what is held for it. Raises InvalidRequest."""
    call, held = state.call, state.held
    body, outline = call.body, call.outline
    if held is not None and held.output_limit is not None:
        assert call.format is not None
        body, outline = edited(body, outline, partial(call.format.limit_output, tokens=held.output_limit))
    if held is not None and state.price is not None and state.price.bounded:
        body, _ = edited(body, outline, partial(with_max_price, settings=state.services.settings))
    return body


def _pause_seconds(call: Call, attempt: int) -> float:
    """As the caller wishes it: the same each time, longer by the same, or doubled."""
    if call.retry_backoff == "exponential":
        return backoff.doubling(attempt, call.retry_delay_ms, _PAUSE_MAX_MS) / 1000
    factor = attempt if call.retry_backoff == "linear" else 1
    return min(call.retry_delay_ms * factor, _PAUSE_MAX_MS) / 1000


def _unreachable(state: CallState, failure: UpstreamFailed) -> Problem:
    """What the caller is told: the cause's word, and nothing about the route there. The operator's log has more."""
    provider, cause = state.call.provider, failure.cause
    log.warning("upstream failed", log_id=state.call.log_id, provider=provider, cause=cause, why=str(failure))
    if failure.timeout:
        return Problem(UPSTREAM_TIMEOUT, f"{provider} did not answer in time ({cause}).", reason=cause)
    if cause == "exhausted":
        words = f"The server has no room for a connection to {provider} ({cause}). Nothing was charged."
        return Problem(TOO_MANY_CALLS, words, retry_after=1, reason=cause)
    found = "gave no answer" if failure.sent else "could not be reached"
    return Problem(UPSTREAM_UNREACHABLE, f"{provider} {found} ({cause}). Nothing was charged.", reason=cause)
