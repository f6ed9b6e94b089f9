"""A provider's responses to a key that the caller does not have: the operator's key, or a stored key of the account.

If the operator's key is rejected, or its account has no credit, the caller gets our own error, and the operator an
alarm. Any other response passes, with the key removed. A stored key is only removed; a caller's own key is left alone.
"""

import re
from operator import itemgetter
from typing import Final

from farebox.calls.stages import CallContext, Responded
from farebox.decoding import UnknownCoding
from farebox.errors import PROVIDER_UNAVAILABLE, UPSTREAM_INVALID, Problem
from farebox.metrics.families import KEY_TROUBLE
from farebox.providers.decoding import decoded
from farebox.providers.key_problem import KeyProblem, is_json, key_problem_of, reports_error
from farebox.providers.scrubbing import ScrubbedResponse, scrubber_of
from farebox.providers.sse import BYTE_ORDER_MARK
from farebox.providers.upstream import UpstreamFailed, UpstreamResponse
from farebox.runtime.operator_alarms import raise_alarm

HEADERS: Final = frozenset({"anthropic-organization-id", "openai-organization", "openai-project"})
"""Response headers that name the operator's account."""
ERROR_MAX: Final = 2**20
"""Maximum bytes of an error's body that are read and passed on."""
_CUT_OFF: Final = 256
_value_of: Final = itemgetter(1)
_ERROR_FIELD: Final = b'"error'
_ERROR: Final = re.compile(rb'"error(?!"\s*:\s*null)').search
_EVENT_END: Final = re.compile(rb"(\n\r?\n|\r\r|\r\n\r)")


class ReadError:
    """An error response whose body has been read (providers.upstream.UpstreamResponse)."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self._body: bytes | None = body

    def whole(self) -> bytes | None:
        return self._body

    async def chunk(self) -> bytes | None:
        body, self._body = self._body, None
        return body or None

    async def close(self) -> None:
        """Does nothing: the response has ended."""


async def check_response(context: CallContext, response: UpstreamResponse) -> UpstreamResponse:
    """The response as it may be passed on. Raises Problem (PROVIDER_UNAVAILABLE; UPSTREAM_INVALID if an error response
    broke off), Interrupted."""
    call = context.call
    if response.status < 400 or not context.secrets:
        return response
    try:
        response = decoded(response)
        body = await _body(context, response)
    except UnknownCoding:
        body = b""  # the key cannot be removed from what cannot be decoded
    except UpstreamFailed as failure:
        if call.own_key or response.status not in (401, 402):
            raise Problem(UPSTREAM_INVALID, f"The response of {call.provider} broke off.") from failure
        body = b""
    finally:
        await response.close()
    problem = None if call.own_key else key_problem_of(response.status, body)
    if problem is not None:
        raise unavailable(context, response.status, problem)
    headers = [
        (name, _clean_error(context, value.encode("latin-1")).decode("latin-1"))
        for name, value in response.headers
        if name.lower() != "content-length"
    ]
    passed = _clean_error(context, body)
    if len(body) >= ERROR_MAX:  # the body was cut, perhaps in the middle of the key
        passed = passed[: -max(_CUT_OFF, *map(len, context.secrets))]
    return ReadError(response.status, headers, passed)


def _clean_error(context: CallContext, text: bytes) -> bytes:
    for secret in context.secrets:
        text = scrubber_of(secret).clean_error(text)
    return text


def without_key(context: CallContext, response: UpstreamResponse) -> UpstreamResponse:
    """The response, decoded, without anything that is not for the caller."""
    for secret in context.secrets:
        scrubber = scrubber_of(secret)
        response = ScrubbedResponse(response, scrubber) if scrubber.forms else response
    return response


def passes_unchanged(context: CallContext, response: UpstreamResponse, body: bytes) -> bool:
    """Whether a response that has arrived completely contains nothing that is not for the caller, as nearly all."""
    secrets = context.secrets
    if not secrets:
        return True
    every = "\n".join(map(_value_of, response.headers)).encode("latin-1") + b"\n" + body
    for secret in secrets:  # noqa: SIM110 - a generator takes as long as all the rest
        if not scrubber_of(secret).passes(every):
            return False
    return True


async def _body(context: CallContext, response: UpstreamResponse) -> bytes:
    chunks, size = [], 0
    with context.watch.waiting(context.services.settings.read_timeout_ms / 1000):
        while size < ERROR_MAX and (chunk := await response.chunk()) is not None:
            context.watch.progress()
            chunks.append(chunk)
            size += len(chunk)
    return b"".join(chunks)[:ERROR_MAX]


def unavailable(
    context: CallContext, status: int, problem: KeyProblem, charged: str = "Nothing was charged.", how: str = ""
) -> Problem:
    """The error for the caller; the operator gets an alarm. `charged`: the sentence about the charge. `how`: how the
    provider reported the problem, if not by the status of a response."""
    call, services = context.call, context.services
    code, message = (
        _clean_error(context, text.encode()).decode(errors="replace") for text in (problem.code, problem.message)
    )
    raise_alarm(
        services,
        "provider_key_trouble",
        call.provider,
        status=status,
        reason=problem.reason,
        code=code,
        message=message,
        log_id=call.log_id,
    )
    services.metrics.count(KEY_TROUBLE, call.provider, problem.reason)
    return Problem(
        PROVIDER_UNAVAILABLE,
        f"{call.provider} does not accept calls from this service at the moment. {charged}",
        retry_after=services.settings.key_trouble_retry_seconds or None,
        reason=f"{problem.reason}, {how or f'answered {status}'}",
    )


def checked_body(stage: Responded, body: bytes) -> bytes | Problem:
    """The same for a failure that is reported in the body of a successful response: the body to pass on, or the
    error."""
    call = stage.context.call
    if not stage.context.secrets:
        return body
    problem = None if call.own_key else key_problem_of(200, body)
    if problem is not None:
        stage.logged.withhold()
        return unavailable(stage.context, 200, problem)
    return _without_key(stage, body)


def _without_key(stage: Responded, body: bytes) -> bytes:
    """Remove the key from a response that is already kept for the log as received; if anything is removed, the log
    keeps nothing."""
    found = _clean_error(stage.context, body)
    if found != body:
        stage.logged.withhold()
    return found


def clean_events(stage: Responded, chunk: bytes) -> bytes:
    """Events of a stream as they may be passed on: one that reports a key problem becomes our own error, and the key is
    removed from other errors."""
    if chunk.find(_ERROR_FIELD) < 0 or not stage.context.secrets or not _ERROR(chunk):
        return chunk
    parts = _EVENT_END.split(chunk)  # events and their terminators, alternating
    return b"".join(part if number % 2 else _cleaned(stage, part) for number, part in enumerate(parts))


def _cleaned(stage: Responded, event: bytes) -> bytes:
    if not _ERROR(event):
        return event
    lines = event.removeprefix(BYTE_ORDER_MARK).splitlines(keepends=True)
    data = [line[5:].strip() for line in lines if line.startswith(b"data:")]
    if len(data) > 1 and not is_json(b"\n".join(data)):  # several events, separated by a single line end
        return b"".join(_cleaned(stage, line) for line in lines)
    whole = b"\n".join(data)
    problem = None if stage.context.call.own_key else key_problem_of(200, whole)
    if problem is not None:
        stage.logged.withhold()
        return stage.context.sink.broken(unavailable(stage.context, 200, problem))
    return _without_key(stage, event) if reports_error(whole) else event
