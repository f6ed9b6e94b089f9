"""The messages on the socket between the gateway and one of its helpers: pickles, and descriptors of in-memory files
that contain large bodies. The bodies themselves are not sent: a helper reads them in place."""

import asyncio
import socket
import struct
from collections.abc import Sequence
from typing import Final

from farebox.memory_files import MemoryFile

_SIZE: Final = struct.Struct("!Q")
FILES_MAX: Final = 2
_READ_BYTES: Final = 256 * 2**10


async def send(sock: socket.socket, data: bytes, files: Sequence[MemoryFile]) -> None:
    """The gateway's side; does not block. Raises OSError."""
    socket.send_fds(sock, [_SIZE.pack(len(data))], [file.fd for file in files])
    await asyncio.get_running_loop().sock_sendall(sock, data)


async def receive(sock: socket.socket) -> bytes:
    """The gateway's side; does not block. Raises EOFError if the helper is gone, and OSError."""
    loop, data, size = asyncio.get_running_loop(), bytearray(), _SIZE.size
    while len(data) < size:
        part = await loop.sock_recv(sock, min(size + _SIZE.size - len(data), _READ_BYTES))
        if not part:
            raise EOFError
        data += part
        if len(data) >= _SIZE.size:
            size = _SIZE.size + _SIZE.unpack_from(data)[0]
    return bytes(data[_SIZE.size :])


def send_response(sock: socket.socket, data: bytes) -> None:
    """The helper's side. Raises OSError."""
    sock.sendall(_SIZE.pack(len(data)))
    sock.sendall(data)


def await_work(sock: socket.socket) -> tuple[bytes, list[int]]:
    """The helper's side: receives a pickle and descriptors. Raises EOFError if the gateway is gone, and OSError."""
    size, files, _, _ = socket.recv_fds(sock, _SIZE.size, FILES_MAX, socket.MSG_WAITALL)
    if len(size) < _SIZE.size:
        raise EOFError
    data = bytearray(_SIZE.unpack(size)[0])
    view, at = memoryview(data), 0
    while at < len(data):
        count = sock.recv_into(view[at:])
        if not count:
            raise EOFError
        at += count
    view.release()
    return bytes(data), files
