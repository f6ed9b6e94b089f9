"""Attempts to prove one's identity in a browser: each must be completed in the same browser, once, within ten minutes.

The data needed for completion (a challenge, a nonce) stays on the server, encrypted; the browser keeps a secret in a
cookie, by which it is found. An attempt from another browser cannot be completed in this one.
"""

from typing import TypeVar

import msgspec

from farebox.calendar import MINUTE_MS
from farebox.runtime.services import Services
from farebox.storage import sign_in_attempts
from farebox.storage.sql import Connection

ATTEMPT_MS = 10 * MINUTE_MS

T = TypeVar("T", bound=msgspec.Struct)


async def begin(services: Services, content: msgspec.Struct) -> str:
    """Begin an attempt; returns the secret for the browser."""
    at, secret = services.clock.now_ms(), services.ids.secret()
    place = type(content).__name__
    hashed = services.vault.hash_token(f"{place}\0{secret}")
    sealed = services.vault.seal(msgspec.json.encode(content), place)
    await services.database.write(
        lambda connection: sign_in_attempts.add(connection, hashed, sealed, at=at, expires_at=at + ATTEMPT_MS)
    )
    return secret


async def take(services: Services, secret: str | None, kind: type[T]) -> T | None:
    """The content of this browser's attempt, if it is of this kind and has not expired; a second time there is
    nothing."""
    if not secret:
        return None
    at, hashed = services.clock.now_ms(), services.vault.hash_token(f"{kind.__name__}\0{secret}")

    def job(connection: Connection) -> bytes | None:
        return sign_in_attempts.take(connection, hashed, at)

    sealed = await services.database.write(job)
    return None if sealed is None else msgspec.json.decode(services.vault.unseal(sealed, kind.__name__), type=kind)
