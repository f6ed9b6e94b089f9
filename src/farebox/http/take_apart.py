"""Parsing request bodies: small ones here, others in a helper process, where they block nobody."""

from collections.abc import Callable
from typing import Final, TypeVar

from farebox.errors import BODY_TOO_COMPLEX, INVALID_REQUEST, READERS_BUSY, Problem
from farebox.offload import Busy, Died, TooMuch
from farebox.providers.formats.base import InvalidRequest, TooComplex
from farebox.providers.formats.bounds import is_light
from farebox.providers.reading import RAISES
from farebox.runtime.services import Services

T = TypeVar("T")

RETRY_SECONDS: Final = 1


async def take_apart(services: Services, account_id: str, function: Callable[..., T], body: bytes, *args: object) -> T:
    """`function(body, *args)`, one of providers.reading. Raises Problem: INVALID_REQUEST, BODY_TOO_COMPLEX,
    READERS_BUSY."""
    try:
        if is_light(body):
            return function(body, *args)
        return await services.helpers.run(account_id, function, body, *args, raises=RAISES)
    except InvalidRequest as error:
        raise unreadable(error) from error
    except TooMuch as error:
        raise Problem(BODY_TOO_COMPLEX, f"Reading the body takes too much {error}.") from error
    except (Busy, Died) as error:
        message = "Too many large bodies wait to be read." if isinstance(error, Busy) else "The body was not read."
        raise Problem(READERS_BUSY, message, retry_after=RETRY_SECONDS) from error


def unreadable(error: InvalidRequest) -> Problem:
    """What the caller is told."""
    return Problem(BODY_TOO_COMPLEX if isinstance(error, TooComplex) else INVALID_REQUEST, str(error))
