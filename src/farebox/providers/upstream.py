"""Calling a provider: bytes there, bytes back. The only module that knows the HTTP client."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import wreq
from wreq import HeaderMap, Method
from wreq import exceptions as failures
from wreq.redirect import Policy

IDLE_SECONDS = 50
"""How long an unused connection is kept: below the 60 s after which many servers and balancers close theirs."""


class UpstreamFailed(Exception):
    """The provider could not be called, or its answer broke off. `sent` tells whether it may have seen the request."""

    def __init__(self, message: str, *, sent: bool, timeout: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.timeout = timeout


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
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


_METHODS = {
    "GET": Method.GET,
    "HEAD": Method.HEAD,
    "POST": Method.POST,
    "PUT": Method.PUT,
    "PATCH": Method.PATCH,
    "DELETE": Method.DELETE,
    "OPTIONS": Method.OPTIONS,
}
_BEFORE_SENDING = {
    failures.BuilderError: "the provider's URL or a header cannot be sent",
    failures.ConnectionError: "no connection",
    failures.ProxyConnectionError: "no connection to the proxy",
    failures.TlsError: "no TLS connection",
}
_AFTER_SENDING = {
    failures.BodyError: "the answer broke off",
    failures.ConnectionResetError: "the connection was reset",
    failures.DecodingError: "the answer broke off",
    failures.RequestError: "the request was not answered in HTTP",
    failures.TimeoutError: "too slow",
}
_FAILURES = {**_BEFORE_SENDING, **_AFTER_SENDING}
"""In words of ours, because the client's own contain the URL, and a URL may contain a key."""
_FAILED = tuple(_FAILURES)


class _Answer:
    __slots__ = ("_chunks", "headers", "status")

    def __init__(self, response: wreq.Response) -> None:
        self._chunks = response.stream()
        self.status = response.status.as_int()
        self.headers = [(str(name, "latin-1"), str(value, "latin-1")) for name, value in response.headers]

    async def chunk(self) -> bytes | None:
        try:
            async for chunk in self._chunks:
                if isinstance(chunk, memoryview):  # else trailers, which nobody reads
                    return bytes(chunk)
        except _FAILED as error:
            raise _failure(error, sent=True) from error
        return None

    async def close(self) -> None:
        self._chunks.__exit__(None, None, None)


class WreqUpstream:
    """wreq (Rust). It sends what it is given and returns what comes: no headers of its own, no redirects followed, no
    cookies, nothing decompressed, proxies as the environment's usual variables say. Unlike others it drops the
    connection where the wait for an answer is cancelled, so that the provider notices."""

    def __init__(self, *, connect_seconds: float) -> None:
        self._client = wreq.Client(
            redirect=Policy.none(),
            referer=False,
            gzip=False,
            brotli=False,
            zstd=False,
            deflate=False,
            connect_timeout=timedelta(seconds=connect_seconds),
            pool_idle_timeout=timedelta(seconds=IDLE_SECONDS),
        )

    async def send(self, request: UpstreamRequest) -> _Answer:
        method = _METHODS.get(request.method)
        if method is None:
            raise UpstreamFailed(f"{request.method} is no method that can be sent", sent=False)
        headers = HeaderMap()
        for name, value in request.headers:
            headers.append(name, value)
        try:
            if request.body:
                response = await self._client.request(method, request.url, headers=headers, body=request.body)
            else:
                response = await self._client.request(method, request.url, headers=headers)
        except _FAILED as error:
            raise _failure(error, sent=type(error) not in _BEFORE_SENDING) from error
        return _Answer(response)

    async def close(self) -> None:
        self._client.close()


def _failure(error: Exception, *, sent: bool) -> UpstreamFailed:
    return UpstreamFailed(_FAILURES[type(error)], sent=sent, timeout=isinstance(error, failures.TimeoutError))
