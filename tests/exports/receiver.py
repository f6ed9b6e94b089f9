"""An endpoint for exports: a real HTTP server on a thread, which keeps the requests that it receives."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.waiting import SECONDS


@dataclass(frozen=True, slots=True)
class Received:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


@dataclass(slots=True)
class Receiver:
    """The received requests, and the responses to give."""

    url: str = ""
    requests: list[Received] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    """Statuses of the next responses, in turn; then 200."""
    hang: threading.Event = field(default_factory=threading.Event)
    """While set, requests get no response until it is cleared and `go` is set."""
    go: threading.Event = field(default_factory=threading.Event)
    _came: threading.Condition = field(default_factory=threading.Condition)

    def take(self, request: Received) -> tuple[int, dict[str, str], bytes]:
        with self._came:
            self.requests.append(request)
            answer = self.answers.pop(0) if self.answers else (200, {}, b"")
            self._came.notify_all()
        if self.hang.is_set():
            self.go.wait(SECONDS)
        return answer

    def wait_for(self, enough: Callable[[list[Received]], bool]) -> list[Received]:
        """The requests, once there are enough."""
        with self._came:
            assert self._came.wait_for(lambda: enough(self.requests), SECONDS), f"only {len(self.requests)} arrived"
            return list(self.requests)


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on a free port of this machine, until the block ends."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, more, answer = receiver.take(Received(self.command, self.path, headers, body))
            with contextlib.suppress(OSError):
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        do_PUT = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.go.set()
        server.shutdown()
        server.server_close()
        thread.join()
