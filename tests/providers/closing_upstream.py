"""An upstream on threads and raw sockets that closes connections unannounced, in the way that the test chooses."""

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_JSON = b'{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},'
ANSWER_BODY = _JSON + b'"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER_BODY) + ANSWER_BODY
)
SECONDS = 30.0


@dataclass
class ClosingUpstream:
    """`ends` determines what happens to a connection after the n-th response (n from 0; `ends` also gets the number of
    the connection):

    `keep`: it is read on; `close`: closed at once; `unread`: closed when the next request has come, without reading it;
    `head`: after a piece of the next request; `read`: after the whole of it, in order; `reset`: the same, by a reset;
    `more`: when it is `reported`, it says something that nobody asked for.
    """

    ends: Callable[[int, int], str] = lambda connection, responses: "keep"
    tls: ssl.SSLContext | None = None
    response: bytes = ANSWER
    """The response; the connection is closed after an incomplete one."""
    url: str = ""
    connections: int = 0
    read: list[bytes] = field(default_factory=list)
    """Completely read requests, on which a provider would have worked."""
    open_now: list[socket.socket] = field(default_factory=list)
    reported: threading.Event = field(default_factory=threading.Event)
    closed: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released for each connection that this side has closed, and when it has said `more`."""

    def serve(self, connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            self.open_now.append(connection)
            self._serve(connection, number)
        connection.close()
        self.closed.release()

    def _serve(self, connection: socket.socket, number: int) -> None:
        connection.settimeout(SECONDS)
        responses, end = 0, "keep"
        while end == "keep":
            if not self._request(connection):
                return
            connection.sendall(self.response)
            end = self.ends(number, responses) if self.response == ANSWER else "close"
            responses += 1
        if end == "close":
            return
        if end == "more":
            self.reported.wait(SECONDS)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
            self.closed.release()
        select.select([connection], [], [], SECONDS)
        if end == "head":
            connection.recv(20)
        elif end in ("read", "reset"):
            self._request(connection)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # acknowledged to the caller's system
            if end == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _request(self, connection: socket.socket) -> bool:
        """Read one whole request."""
        received = bytearray()
        while b"\r\n\r\n" not in received:
            if not (data := connection.recv(65536)):
                return False
            received += data
        head, _, rest = received.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in bytes(head).lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        body = bytearray(rest)
        while len(body) < length:
            if not (data := connection.recv(65536)):
                return False
            body += data
        self.read.append(bytes(body))
        return True


@contextlib.contextmanager
def closing(
    ends: Callable[[int, int], str], tls: ssl.SSLContext | None = None, response: bytes = ANSWER
) -> Iterator[ClosingUpstream]:
    """Listens on a free port until the block ends."""
    upstream = ClosingUpstream(ends, tls, response)
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    upstream.url = f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
    threads: list[threading.Thread] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=upstream.serve, args=(connection, upstream.connections))
            upstream.connections += 1
            threads.append(thread)
            thread.start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield upstream
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for connection in upstream.open_now:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
