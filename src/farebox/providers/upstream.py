"""Calling a provider: bytes there, bytes back. providers.http1 is the one implementation."""

from typing import Protocol

import msgspec


class UpstreamFailed(Exception):
    """The provider could not be called, or its answer broke off. `sent` tells whether it may have seen the request."""

    def __init__(self, message: str, *, sent: bool, timeout: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.timeout = timeout


class UpstreamRequest(msgspec.Struct, frozen=True):
    """One request to a provider, ready to go."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes


class UpstreamAnswer(Protocol):
    """An answer whose head has come."""

    status: int
    headers: list[tuple[str, str]]

    async def chunk(self) -> bytes | None:
        """The next bytes as they arrive; None at the end. Raises UpstreamFailed."""
        ...

    async def close(self) -> None:
        """Let go of the answer; where it has not ended, the connection is dropped and the provider notices."""
        ...


class Upstream(Protocol):
    async def send(self, request: UpstreamRequest) -> UpstreamAnswer:
        """Send, and wait for the head of the answer: for as long as the caller does. Raises UpstreamFailed."""
        ...

    async def close(self) -> None: ...
