"""Calling a provider: bytes out, bytes back. providers.http1 is the only implementation."""

from typing import TYPE_CHECKING, Final, Literal, Protocol

import msgspec

from farebox.memory_files import Body

if TYPE_CHECKING:
    from farebox.websocket import ProviderSocket, Room

Cause = Literal[
    "dns",
    "address_refused",
    "refused",
    "unreachable",
    "reset",
    "closed",
    "cut",
    "protocol",
    "tls",
    "tls_expired",
    "tls_name",
    "tls_unknown_authority",
    "proxy_unreachable",
    "proxy_auth",
    "proxy_refused",
    "timeout_connect",
    "timeout_answer",
    "exhausted",
    "unsendable",
    "internal",
]
"""Why a provider could not be called. These words are stable: they appear in logs, metrics and errors
(docs/errors.md)."""

TIMEOUTS: Final = ("timeout_connect", "timeout_answer")


class UpstreamFailed(Exception):
    """The provider could not be called, or its response broke off. `sent`: whether it may have seen the request.

    The message is for the operator; it names no address and no secret.
    """

    def __init__(self, message: str, *, sent: bool, cause: Cause) -> None:
        super().__init__(message)
        self.sent = sent
        self.cause: Cause = cause

    @property
    def timeout(self) -> bool:
        return self.cause in TIMEOUTS


class HandshakeRefused(Exception):
    """The provider responded with something other than a WebSocket."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        super().__init__(str(status))
        self.status = status
        self.headers = headers
        self.body = body


class SendProgress(msgspec.Struct):
    """How far a request got, for a caller that abandons the wait for its response."""

    whole: bool = False
    """Whether all of it had been passed to the network when the wait was abandoned: the provider may be working on
    it."""


class SentHead(msgspec.Struct):
    """The encoded head of a request, kept by a caller that sends several with the same method, URL and headers."""

    base: str = ""
    """Scheme and host of the URL; empty until something was sent."""
    lines: bytes = b""
    """Everything but the body's length and the end of the head."""


class UpstreamRequest(msgspec.Struct, frozen=True):
    """One request to a provider, ready to go."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: Body
    sending: SendProgress = msgspec.field(default_factory=SendProgress)
    head: SentHead = msgspec.field(default_factory=SentHead)


class UpstreamResponse(Protocol):
    """A response whose head has arrived."""

    status: int
    headers: list[tuple[str, str]]

    def whole(self) -> bytes | None:
        """The whole body, if all of it has arrived and none of it has been taken; otherwise None."""
        ...

    async def chunk(self) -> bytes | None:
        """The next bytes as they arrive; None at the end. Raises UpstreamFailed."""
        ...

    async def close(self) -> None:
        """Release the response; if it has not ended, the connection is dropped and the provider notices."""
        ...


class Upstream(Protocol):
    failures: dict[str, int]
    """How often calls of providers failed since the start, by cause; each try counts."""
    resent: int
    """How often a request was sent again because a kept connection had ended before the provider read it."""

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """Send, and wait for the head of the response for as long as the caller waits; if the wait is canceled,
        `request.sending` shows how far the request got. Raises UpstreamFailed."""
        ...

    async def open_socket(
        self, request: UpstreamRequest, subprotocols: tuple[str, ...], message_max: int, room: "Room"
    ) -> "ProviderSocket":
        """Open a WebSocket, by the request's URL and headers; its messages are limited to that many bytes. Raises
        UpstreamFailed, HandshakeRefused."""
        ...

    def count(self, cause: Cause) -> None:
        """Count a failure that only the caller knows of, such as an abandoned wait."""
        ...

    async def close(self) -> None: ...
