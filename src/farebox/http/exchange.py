"""One HTTP exchange, independent of the server that carries it: head and body in; status, headers and body out."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, TypeAlias

from farebox.channels import Channel
from farebox.errors import ClientGone as ClientGone
from farebox.limits.byte_budget import ByteLease
from farebox.memory_files import Body

HeaderList: TypeAlias = list[tuple[str, str]]


class RequestHeaders(Protocol):
    """Names are in lower case. A header that was sent more than once is one value, joined by commas."""

    def get(self, name: str) -> str | None: ...

    def items(self) -> Iterable[tuple[str, str]]: ...


class RequestHead:
    """The head of a request. It is never changed."""

    __slots__ = ("headers", "memo", "method", "path", "query")

    def __init__(self, method: str, path: str, query: str, headers: "RequestHeaders") -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.memo: object = None
        """What the handler has derived from the head, apart from the body's length: when a client repeats the head on
        its connection, the next request gets the same memo."""

    def with_length(self, length: str) -> "RequestHead":
        """The same head with another content-length, and the same memo."""
        headers = {**dict(self.headers.items()), "content-length": length}
        head = RequestHead(self.method, self.path, self.query, headers)
        head.memo = self.memo
        return head


class ResponseStream(Protocol):
    """A response whose head has been sent."""

    async def send(self, chunk: bytes) -> None:
        """Send a chunk, waiting while the client is slow to read. Raises ClientGone."""
        ...

    def offer(self, chunk: bytes) -> None:
        """Send a chunk if that needs no waiting: if the client is slow to read, or gone, the chunk is dropped."""
        ...


class Exchange(Protocol):
    """Respond exactly once: by `respond`, or by `start` and then sends; the stream ends when the handler returns. If
    the handler raises, or responds again, after `start`, the client sees that the response broke off."""

    @property
    def head(self) -> RequestHead: ...

    @property
    def method(self) -> str: ...

    path: str
    """Percent-encoded, as it would be forwarded; nothing is encoded unnecessarily. A server below a path strips that
    path."""

    client: str
    """The address of the client, or of the peer if nothing better is known. Empty if unknown."""
    encrypted: bool
    """Whether the client is known to have used TLS, to a proxy in front."""

    @property
    def query(self) -> str:
        """Without the question mark, as it was received."""
        ...

    @property
    def headers(self) -> RequestHeaders: ...

    @property
    def length(self) -> int | None:
        """The body's length as declared by the head; None if it comes in chunks."""
        ...

    def hold(self, lease: ByteLease) -> None:
        """From now on, count what the exchange keeps in memory on this lease, and close the lease when the exchange is
        over: when the client has received the response, or has gone. Raises errors.Problem if there is no room for the
        head."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the whole body is known to have arrived."""
        ...

    async def body(self, limit: int) -> bytes:
        """The complete request body, for handlers that expect a small one: see `content`."""
        ...

    def received_body(self, limit: int) -> bytes | None:
        """The complete request body if it has arrived with the head, as small ones do; otherwise None. Raises
        errors.Problem if the lease has no room for it."""
        ...

    def peek(self) -> bytes | None:
        """The body that `received_body` would return, without taking it: `received_body` or `content` must still be
        called."""
        ...

    async def content(self, limit: int) -> Body:
        """The complete request body. Raises errors.Problem: BODY_TOO_LARGE above `limit` bytes, BODY_LATE if the client
        hardly sends, ACCOUNT_BYTES_FULL or SERVER_BYTES_FULL if the lease has no room for it. Raises ClientGone. A
        client that expects `100 Continue` before it sends the body gets that only if there is room."""
        ...

    def respond(self, status: int, headers: HeaderList, body: bytes) -> None: ...

    def start(self, status: int, headers: HeaderList) -> ResponseStream: ...

    def switch(self, headers: HeaderList) -> Channel:
        """Accept the client's request to switch to another protocol, with these headers in addition to those of the
        switch; until the handler returns, the connection carries that protocol. It replaces the response. Raises
        ClientGone if the client has gone or has not waited for this, or if the server does not support it."""
        ...

    def gone(self) -> Awaitable[None]:
        """Done when the client has closed the connection. Each call creates a new awaitable."""
        ...

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Call this when the client closes the connection; at once if it has closed it."""
        ...
