"""Serving a fake Stripe over HTTP, in the caller's event loop."""

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from fake_stripe.app import FakeStripe
from fake_stripe.clock import Clock, SystemClock

if TYPE_CHECKING:
    from fake_stripe.connections import Connections

_BACKLOG = 128


class AddressInUse(RuntimeError):
    """The port is taken; the message says how to take another."""


class RunningFakeStripe:
    """A fake Stripe that is being served; closes at the end of an `async with`."""

    def __init__(self, app: FakeStripe, host: str, port: int) -> None:
        self.app = app
        self.host = host
        self.port = port
        self._listener: asyncio.AbstractServer | None = None
        self._connections: Connections | None = None

    @property
    def url(self) -> str:
        """Base URL of the API, without a path; Stripe's clients call it the API base."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def listen(self, sock: socket.socket) -> None:
        """Serve the connections of a listening socket."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._connect, sock=sock, backlog=_BACKLOG)

    def _connect(self) -> asyncio.Protocol:
        if self._connections is None:
            # Half of what the start would load: loaded with the first client.
            from fake_stripe.connections import Connections

            self._connections = Connections(self.app)
        return self._connections.connect()

    async def close(self) -> None:
        """Accept no further connections, finish requests in flight, and break off those that have not ended after half
        a second."""
        if self._listener is not None:
            self._listener.close()
        await self.app.close()
        if self._connections is not None:
            await self._connections.close()
        self.app.world.store.close()

    async def __aenter__(self) -> "RunningFakeStripe":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def start_fake_stripe(
    *,
    port: int = 0,
    host: str = "127.0.0.1",
    clock: Clock | None = None,
    state: Path | None = None,
    webhook_url: str | None = None,
    webhook_secret: str | None = None,
    public_url: str | None = None,
) -> RunningFakeStripe:
    """Serve a fake Stripe in the running loop, on a port of the system's choice unless one is named.

    `state`: a file that stores its objects. `public_url`: the URL at which browsers reach it, if that is not its own
    address. Raises AddressInUse if the port is taken, OSError if the file cannot be used.
    """
    sock = _listening(host, port)
    try:
        app = FakeStripe(clock or SystemClock(), state)
    except OSError:
        sock.close()
        raise
    running = RunningFakeStripe(app, host, sock.getsockname()[1])
    app.world.set_public_url((public_url or running.url).rstrip("/"))
    app.send_webhooks_to(webhook_url, webhook_secret)
    await running.listen(sock)
    return running


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        why = str(error.strerror).partition(" (while")[0]  # Python repeats the address here
        raise AddressInUse(f"cannot listen on {host}:{port} ({why}): choose another address or port") from error
    # Its connections inherit it. asyncio sets it only on sockets that name their protocol, which these do not; the body
    # of a response, sent after its head, would then wait 40 ms for the client's acknowledgment of the head.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
