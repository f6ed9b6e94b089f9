"""Errors that a provider answers on the operator's key: what is the operator's own stays with the operator.

Where the key is refused, or its account has no credit, the caller is told in our words, and the operator by an alarm.
Any other error passes, without the key. With a key of the caller's own nothing of this applies.
"""

import re
from typing import Final

from farebox.decoding import UnknownCoding
from farebox.errors import PROVIDER_UNAVAILABLE, UPSTREAM_INVALID, Problem
from farebox.providers.decoding import decoded
from farebox.providers.trouble import Trouble, scrubbed, trouble_of
from farebox.providers.upstream import UpstreamAnswer, UpstreamFailed
from farebox.usecases.operator_alarms import raise_alarm
from farebox.usecases.ride import Ride

HEADERS: Final = frozenset({"anthropic-organization-id", "openai-organization", "openai-project"})
"""Headers of answers that name the operator's account."""
ERROR_MAX: Final = 2**20
"""What is read and passed on of an error's body."""
_EVENT: Final = re.compile(rb".+?(?:\r?\n\r?\n|\r\r|\Z)", re.DOTALL)
_DATA: Final = re.compile(rb"^data:[ ]?(.*?)\r?$", re.MULTILINE)


class ReadError:
    """An error whose body has been read (providers.upstream.UpstreamAnswer)."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self._body: bytes | None = body

    async def chunk(self) -> bytes | None:
        body, self._body = self._body, None
        return body or None

    async def close(self) -> None:
        """It has ended."""


async def checked(ride: Ride, answer: UpstreamAnswer) -> UpstreamAnswer:
    """The answer as it may be passed on. Raises Problem (PROVIDER_UNAVAILABLE; UPSTREAM_INVALID where an error broke
    off), Interrupted."""
    call = ride.call
    if answer.status < 400 or call.own_key:
        return answer
    try:
        answer = decoded(answer)
        body = await _body(ride, answer)
    except UnknownCoding:
        body = b""  # what cannot be read cannot be freed of the key
    except UpstreamFailed as failure:
        if answer.status not in (401, 402):
            raise Problem(UPSTREAM_INVALID, f"The answer of {call.provider} broke off.") from failure
        body = b""
    finally:
        await answer.close()
    trouble = trouble_of(answer.status, body)
    if trouble is not None:
        raise unavailable(ride, answer.status, trouble)
    headers = [(name, value) for name, value in answer.headers if name.lower() != "content-length"]
    return ReadError(answer.status, headers, scrubbed(body, call.access.api_key or ""))


async def _body(ride: Ride, answer: UpstreamAnswer) -> bytes:
    chunks, size = [], 0
    with ride.watch.waiting(ride.services.settings.read_timeout_ms / 1000):
        while size < ERROR_MAX and (chunk := await answer.chunk()) is not None:
            ride.watch.progress()
            chunks.append(chunk)
            size += len(chunk)
    return b"".join(chunks)[:ERROR_MAX]


def unavailable(ride: Ride, status: int, trouble: Trouble) -> Problem:
    """What the caller is told; the operator gets an alarm."""
    call, retry = ride.call, ride.services.settings.key_trouble_retry_seconds
    message = scrubbed(trouble.message.encode(), call.access.api_key or "").decode(errors="replace")
    raise_alarm(
        ride.services,
        "provider_key_trouble",
        call.provider,
        status=status,
        reason=trouble.reason,
        code=trouble.code,
        message=message,
        log_id=call.log_id,
    )
    return Problem(
        PROVIDER_UNAVAILABLE,
        f"{call.provider} takes no calls from this service at the moment. Nothing was charged.",
        retry_after=retry or None,
        reason=f"{trouble.reason}, answered {status}",
    )


def checked_body(ride: Ride, body: bytes) -> bytes | Problem:
    """The same for a failure that a good answer reports as its body: what may be passed on, or the problem."""
    if ride.call.own_key:
        return body
    trouble = trouble_of(200, body)
    return scrubbed(body, ride.call.access.api_key or "") if trouble is None else unavailable(ride, 200, trouble)


def cleaned(ride: Ride, chunk: bytes) -> bytes:
    """Events of a stream as they may be passed on: one that reports trouble with the key is told in our words."""
    if ride.call.own_key or b'"error' not in chunk:
        return chunk
    return b"".join(_cleaned(ride, found.group()) for found in _EVENT.finditer(chunk))


def _cleaned(ride: Ride, event: bytes) -> bytes:
    if b'"error' not in event:
        return event
    trouble = trouble_of(200, b"\n".join(_DATA.findall(event)))
    if trouble is None:
        return event
    ride.body_withheld = True
    return ride.sink.broken(unavailable(ride, 200, trouble).message)
