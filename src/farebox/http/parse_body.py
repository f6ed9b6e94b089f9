"""Parsing request bodies: small ones here, others in a helper process, where they block no other call."""

from collections.abc import Callable
from typing import Final, TypeVar

from farebox.calls.watch import Interrupted, Watch
from farebox.errors import (
    BODY_TOO_COMPLEX,
    INVALID_REQUEST,
    PROVIDER_UNKNOWN,
    READERS_BUSY,
    SHUTTING_DOWN,
    ErrorKind,
    Problem,
)
from farebox.helper_processes import HelperDied, PoolBusy, PoolStopping, TooMuchWork
from farebox.memory_files import Body, MemoryFile
from farebox.providers.audio.length import TooLong, at_once
from farebox.providers.formats.base import InvalidRequest, TooComplex, UnknownProvider
from farebox.providers.formats.bounds import is_light
from farebox.providers.reading import RAISES
from farebox.runtime.services import Services

T = TypeVar("T")

RETRY_SECONDS: Final = 1


async def parse_body(
    services: Services, watch: Watch, account_id: str, function: Callable[..., T], body: Body, *args: object
) -> T:
    """`function(body, *args)`, one of providers.reading. Raises Problem: INVALID_REQUEST, BODY_TOO_COMPLEX,
    PROVIDER_UNKNOWN, READERS_BUSY; Interrupted if the client disconnects meanwhile."""
    if isinstance(body, bytes) and is_light(body):
        try:
            return parse_here(function, body, *args)
        except TooLong:
            pass  # audio is parsed frame by frame: even a little takes long
    return await parse_in_helper(services, watch, account_id, function, body, *args)


async def parse_in_helper(
    services: Services, watch: Watch, account_id: str, function: Callable[..., T], body: Body, *args: object
) -> T:
    """The same, always in a helper process."""
    try:
        return await in_helper(services, watch, account_id, function, body, *args, raises=RAISES)
    except InvalidRequest as error:
        raise unreadable(error) from error


async def in_helper(
    services: Services,
    watch: Watch,
    account_id: str,
    function: Callable[..., T],
    body: Body,
    *args: object,
    into: MemoryFile | None = None,
    raises: tuple[type[Exception], ...],
) -> T:
    """See helper_processes.Pool.run. Raises what is in `raises`, and Problem: BODY_TOO_COMPLEX, READERS_BUSY,
    SHUTTING_DOWN; Interrupted if the client disconnects meanwhile: work that has not begun is then not done."""
    try:
        with watch.waiting(services.settings.call_timeout_ms / 1000):
            run = services.helpers.run
            return await run(account_id, function, body, *args, into=into, raises=raises, early=True)
    except Interrupted as interrupted:
        if interrupted.reason == "client_gone":
            raise
        raise busy("The body was not parsed in time.") from interrupted
    except TooMuchWork as error:
        raise Problem(BODY_TOO_COMPLEX, f"Parsing the body takes too much {error}.") from error
    except PoolBusy as error:
        raise busy("Too many large bodies are waiting to be parsed.") from error
    except PoolStopping as error:
        raise shutting_down() from error
    except HelperDied as error:
        raise busy("The body was not parsed.") from error


def shutting_down() -> Problem:
    """The error for a call that has not begun when the server stops."""
    return Problem(SHUTTING_DOWN, "The server is restarting.", retry_after=RETRY_SECONDS)


def busy(message: str) -> Problem:
    """The error if the body could not be read."""
    return Problem(READERS_BUSY, message, retry_after=RETRY_SECONDS)


def parse_here(function: Callable[..., T], *args: object) -> T:
    """`function(*args)` for a small body. Raises TooLong, Problem: INVALID_REQUEST, BODY_TOO_COMPLEX."""
    try:
        return at_once(function, *args)
    except InvalidRequest as error:
        raise unreadable(error) from error


def unreadable(error: InvalidRequest) -> Problem:
    """The error for the caller."""
    kind = next((kind for type_, kind in _KINDS.items() if isinstance(error, type_)), INVALID_REQUEST)
    return Problem(kind, str(error))


_KINDS: Final[dict[type[InvalidRequest], ErrorKind]] = {TooComplex: BODY_TOO_COMPLEX, UnknownProvider: PROVIDER_UNKNOWN}
