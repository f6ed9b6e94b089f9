"""A request that does not come over a connection of its own: the server itself passes it to its data plane."""

import asyncio

from farebox.channels import Channel
from farebox.errors import ClientGone
from farebox.http.exchange import HeaderList, RequestHead
from farebox.limits.byte_budget import ByteLease


class InnerExchange:
    """The request side of an exchange (http.exchange.Exchange) whose body is available from the start. Subclasses
    determine what happens with the response."""

    method, query, complete = "POST", "", True

    def __init__(self, path: str, headers: dict[str, str], body: bytes, client: str, *, encrypted: bool) -> None:
        self.path, self.headers, self.client, self.encrypted = path, headers, client, encrypted
        self.head = RequestHead(self.method, path, self.query, headers)
        self.length: int | None = len(body)
        self.lease: ByteLease | None = None
        self._body = body

    def hold(self, lease: ByteLease) -> None:
        """Does nothing: the creator of the exchange closes the lease at its end."""
        self.lease = lease
        lease.take(len(self._body))

    async def body(self, limit: int) -> bytes:
        return self._body

    def received_body(self, limit: int) -> bytes | None:
        return self._body

    def peek(self) -> bytes | None:
        return None

    async def content(self, limit: int) -> bytes:
        return self._body

    def switch(self, headers: HeaderList) -> Channel:
        """There is no connection to switch. Raises ClientGone."""
        raise ClientGone

    def offer(self, chunk: bytes) -> None:
        """Does nothing: comments are only for HTTP."""

    async def gone(self) -> None:
        """Never returns, unless a subclass implements `when_gone`."""
        await asyncio.get_running_loop().create_future()
