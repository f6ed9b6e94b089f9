"""Ways in which one side ends a session."""

import socket
import threading
from collections.abc import Callable
from typing import Final, TypeAlias

from websockets.sync.client import ClientConnection
from websockets.sync.server import ServerConnection

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
