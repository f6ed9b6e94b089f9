"""A scripted WebSocket provider, and clients of Farebox."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

from farebox.money import NANOS_PER_USD
from tests.calls.kit import differences, log_rows
from tests.support import Customer
from tests.waiting import until

Script = Callable[[ServerConnection], None]
SECONDS = 60
"""A limit for failures only."""


def echo(connection: ServerConnection) -> None:
    """Echo messages until the connection is closed."""
    for message in connection:
        connection.send(message)


@dataclass
class SocketProvider:
    """Plays `script` with each connection."""

    url: str = ""
    script: Script = echo
    refusal: Callable[[ServerConnection, Request], Response | None] = lambda _, __: None
    subprotocol: str = ""
    """The subprotocol that it chooses from those offered."""
    handshakes: list[Request] = field(default_factory=list)
    closed: list[tuple[int | None, str]] = field(default_factory=list)
    """Close code and reason of sessions, as the provider saw them."""
    ended: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released once for each entry in `closed`."""

    @property
    def headers(self) -> Any:
        """The headers of the last handshake."""
        return self.handshakes[-1].headers

    def forget(self) -> None:
        """Reset to an echo, with nothing recorded."""
        self.script, self.subprotocol, self.refusal = echo, "", lambda _, __: None
        self.handshakes, self.closed, self.ended = [], [], threading.Semaphore(0)

    def await_end(self) -> tuple[int | None, str]:
        """Wait for the end of the next session; its close code and reason."""
        assert self.ended.acquire(timeout=SECONDS)
        return self.closed[-1]


@contextlib.contextmanager
def providing() -> Iterator[SocketProvider]:
    """Listens on a free port until the block ends."""
    provider = SocketProvider()

    def handle(connection: ServerConnection) -> None:
        closed, ended = provider.closed, provider.ended
        try:
            provider.script(connection)
            connection.close()
        except ConnectionClosed:
            pass
        finally:
            closed.append((connection.close_code, connection.close_reason or ""))
            ended.release()

    def first(connection: ServerConnection, request: Request) -> Response | None:
        provider.handshakes.append(request)
        return provider.refusal(connection, request)

    def choose(_: ServerConnection, offered: Any) -> Any:
        return provider.subprotocol if provider.subprotocol in offered else None

    with serve(
        handle, "127.0.0.1", 0, process_request=first, select_subprotocol=choose, max_size=2**26, ping_interval=None
    ) as server:
        provider.url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield provider
        server.shutdown()
        thread.join(SECONDS)


def opened(customer: Customer, path: str, headers: dict[str, str] | None = None, **options: Any) -> ClientConnection:
    """A WebSocket of the customer, with its token unless other headers are given."""
    url = f"{customer.gateway_url}/{path}".replace("http://", "ws://")
    given = customer.headers if headers is None else headers
    return connect(
        url, additional_headers=given, proxy=None, max_size=2**26, open_timeout=SECONDS, legacy=True, **options
    )


def send(connection: Any, **event: Any) -> None:
    """An event."""
    connection.send(json.dumps(event))


def receive(connection: Any) -> dict[str, Any]:
    """The next event."""
    event: dict[str, Any] = json.loads(connection.recv(SECONDS))
    return event


def await_close(connection: ClientConnection) -> tuple[int | None, str]:
    """Code and reason with which the other side closes."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            connection.recv(SECONDS)
    return connection.close_code, connection.close_reason or ""


def turns_of(customer: Customer) -> list[dict[str, Any]]:
    """The rows of the turns, oldest first."""
    return [row for row in reversed(log_rows(customer)) if row["model"]]


def settled(customer: Customer, charged: int, turns: int | None = None, granted: int = 5 * NANOS_PER_USD) -> None:
    """Check that nothing is held, and that this much was charged in this many rows; None: any number."""
    until(
        lambda: customer.balance.held == 0 and not customer.farebox.services.calls.by_account.get(customer.account_id)
    )
    assert granted - customer.balance.posted == charged
    assert turns is None or len([row for row in turns_of(customer) if row["cost"]]) == turns
    assert not differences(customer.farebox)
