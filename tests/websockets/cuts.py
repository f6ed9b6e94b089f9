"""Sessions that one side cuts, at any message of the provider's."""

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from websockets.sync.client import ClientConnection
from websockets.sync.server import ServerConnection

from tests.websockets.kit import SECONDS, Script, SocketProvider

Cut: TypeAlias = Callable[[ServerConnection, ClientConnection], None]


def _client_vanishes(_: ServerConnection, client: ClientConnection) -> None:
    client.socket.shutdown(socket.SHUT_RDWR)


def _client_closes(_: ServerConnection, client: ClientConnection) -> None:
    threading.Thread(target=client.close).start()


def _provider_vanishes(server: ServerConnection, _: ClientConnection) -> None:
    server.socket.shutdown(socket.SHUT_RDWR)


def _provider_closes(server: ServerConnection, _: ClientConnection) -> None:
    server.close(1011, "internal error")


CUTS: Final = (_client_vanishes, _client_closes, _provider_vanishes, _provider_closes)


@dataclass
class Cutter:
    """Cuts one session once it is `ready`: once `client` is known."""

    cut: Cut
    at: int
    client: ClientConnection = None  # type: ignore[assignment]  # until it is known
    ready: threading.Event = field(default_factory=threading.Event)
    sent: int = 0


class _Counted:
    """A connection that is cut after this many messages."""

    def __init__(self, connection: ServerConnection, cutter: Cutter) -> None:
        self._connection = connection
        self._cutter = cutter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._connection)

    def send(self, message: Any) -> None:
        cutter = self._cutter
        if cutter.sent == cutter.at:
            cutter.cut(self._connection, cutter.client)
        cutter.sent += 1
        self._connection.send(message)


def cutting(provider: SocketProvider, played: Script, cut: Cut, at: int) -> Cutter:
    """Has the provider play this, until it is cut after that many messages."""
    cutter = Cutter(cut, at)

    def script(connection: ServerConnection) -> None:
        cutter.ready.wait(SECONDS)
        played(_Counted(connection, cutter))  # type: ignore[arg-type]  # it is one, and counts

    provider.script = script
    return cutter
