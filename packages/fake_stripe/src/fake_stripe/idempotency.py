"""Idempotency keys: the first response to a key is repeated for 24 hours."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from fake_stripe.errors import Json, StripeError
from fake_stripe.world import World

KEPT_SECONDS = 24 * 3600
_LONGEST = 255


class Keys:
    """The keys that have been used, and those in use at this moment."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._busy: set[str] = set()

    @contextmanager
    def using(self, key: str | None) -> Iterator[None]:
        """Allow only one request at a time with a key. Raises StripeError."""
        if key is None:
            yield
            return
        if len(key) > _LONGEST:
            message = f"Idempotency keys must not be longer than {_LONGEST} characters."
            raise StripeError(400, "invalid_request_error", message)
        if key in self._busy:
            raise StripeError(
                409,
                "idempotency_error",
                "There is currently another in-progress request using this Idempotent Key (that probably means you "
                f"submitted twice, and the other request is still going through): {key}. Please try again later.",
                code="idempotency_key_in_use",
            )
        self._busy.add(key)
        try:
            yield
        finally:
            self._busy.discard(key)

    def first_response(self, key: str, fingerprint: str) -> Json | None:
        """The stored response for this key. Raises StripeError if the key was used for another request."""
        self._forget_old()
        known = self._world.store.find("_idempotency", key)
        if known is None:
            return None
        if known["fingerprint"] != fingerprint:
            raise StripeError(
                400,
                "idempotency_error",
                "Keys for idempotent requests can only be used with the same parameters they were first used with. Try "
                f"using a key other than '{key}' if you meant to execute a different request.",
            )
        return known

    def save(self, key: str, fingerprint: str, status: int, body: bytes, request_id: str) -> None:
        """Store the first response."""
        record = {"object": "_idempotency", "id": key, "created": self._world.now(), "fingerprint": fingerprint}
        self._world.store.add(record | {"status": status, "body": body.decode(), "request_id": request_id})

    def _forget_old(self) -> None:
        oldest = self._world.now() - KEPT_SECONDS
        for known in self._world.store.all("_idempotency"):
            if known["created"] > oldest:
                return
            self._world.store.remove(known)


def fingerprint(method: str, path: str, body: bytes, query: str) -> str:
    """Equal for equal requests, whatever the order of their parameters."""
    parts = sorted(body.decode(errors="replace").split("&")) + sorted(query.split("&"))
    return hashlib.sha256("\n".join([method, path, *parts]).encode()).hexdigest()
