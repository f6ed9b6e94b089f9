"""What goes over the socket between the gateway and one of its helpers: a pickled head, and bytes as they are."""

import socket
import struct
from typing import Final

_SIZES: Final = struct.Struct("!QQ")


def send(sock: socket.socket, head: bytes, body: bytes) -> None:
    """Raises OSError, TimeoutError among them."""
    sock.sendall(_SIZES.pack(len(head), len(body)) + head)
    if body:
        sock.sendall(body)


def receive(sock: socket.socket) -> tuple[bytes, bytes]:
    """Raises EOFError where the other side has gone, and OSError."""
    head_size, body_size = _SIZES.unpack(_exactly(sock, _SIZES.size))
    return _exactly(sock, head_size), _exactly(sock, body_size)


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    view, at = memoryview(data), 0
    while at < size:
        count = sock.recv_into(view[at:])
        if not count:
            raise EOFError
        at += count
    view.release()
    return bytes(data)
