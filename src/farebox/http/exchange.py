"""One HTTP exchange, whatever server carries it: head and body in; status, headers, bytes out."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, TypeAlias

from farebox.channels import Channel
from farebox.errors import ClientGone as ClientGone
from farebox.limits.held import Lease
from farebox.memfile import Body

HeaderList: TypeAlias = list[tuple[str, str]]


class RequestHeaders(Protocol):
    """Names are lower case. A header that came more than once is one, its values joined by commas."""

    def get(self, name: str) -> str | None: ...

    def items(self) -> Iterable[tuple[str, str]]: ...


class RequestHead:
    """What a request's head says. Nothing of it is changed."""

    __slots__ = ("headers", "memo", "method", "path", "query")

    def __init__(self, method: str, path: str, query: str, headers: "RequestHeaders") -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.memo: object = None
        """What the handler has worked out from it, all but the body's length: when a client repeats the head on its
        connection, the next request has the same memo."""

    def with_length(self, length: str) -> "RequestHead":
        """The same head with another content-length, and the same memo."""
        headers = {**dict(self.headers.items()), "content-length": length}
        head = RequestHead(self.method, self.path, self.query, headers)
        head.memo = self.memo
        return head


class ResponseStream(Protocol):
    """A response whose head has been sent."""

    async def send(self, chunk: bytes) -> None:
        """Waits while the client is slow to read. Raises ClientGone."""
        ...

    def offer(self, chunk: bytes) -> None:
        """Send it if that takes no waiting: where the client is slow to read, or gone, it is dropped."""
        ...


class Exchange(Protocol):
    """Response exactly once: by `answer`, or by `start` and then sends; the stream ends when the handler returns.

    Where the handler raises, or answers once more, after `start`, the client sees that the response broke off.
    """

    @property
    def head(self) -> RequestHead: ...

    @property
    def method(self) -> str: ...

    path: str
    """Percent-encoded, as it would be forwarded; what needs no encoding has none. A server below a path strips it."""

    client: str
    """The address of the client, or of the peer if nothing better is known. Empty if unknown."""
    encrypted: bool
    """The client is known to have come over TLS, to a proxy in front."""

    @property
    def query(self) -> str:
        """Without the question mark, as it came."""
        ...

    @property
    def headers(self) -> RequestHeaders: ...

    @property
    def length(self) -> int | None:
        """Of the body, as the head declares it; None if it comes in chunks."""
        ...

    def hold(self, lease: Lease) -> None:
        """From now on, count what the exchange keeps in memory on this lease, and close it when the exchange is over:
        when its response has been taken, or its client has gone. Raises errors.Problem where the head has no room."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the whole body is known to have arrived."""
        ...

    async def body(self, limit: int) -> bytes:
        """The whole request body, for those who expect a small one: see `content`."""
        ...

    def at_hand(self, limit: int) -> bytes | None:
        """The same, where it has come with the head, as small ones do; otherwise None. Raises errors.Problem where
        there is no room in the lease."""
        ...

    def peek(self) -> bytes | None:
        """What `at_hand` would give, which it still has to."""
        ...

    async def content(self, limit: int) -> Body:
        """The whole request body. Raises errors.Problem (BODY_TOO_LARGE above `limit` bytes, BODY_LATE where the client
        hardly sends, and where there is no room in the lease: ACCOUNT_BYTES_FULL, SERVER_BYTES_FULL), and ClientGone.
        A client that waits for a word before it sends the body is given it only where there is room."""
        ...

    def respond(self, status: int, headers: HeaderList, body: bytes) -> None: ...

    def start(self, status: int, headers: HeaderList) -> ResponseStream: ...

    def switch(self, headers: HeaderList) -> Channel:
        """Grant the client's wish to speak another protocol, with these headers besides those that say so; until the
        handler returns, the connection carries that. In the place of a response. Raises ClientGone where the client has
        gone, has not waited for this, or the server cannot."""
        ...

    def gone(self) -> Awaitable[None]:
        """Done when the client has closed the connection. Each call creates a new awaitable."""
        ...

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Have this called when the client closes the connection; at once if it has."""
        ...
