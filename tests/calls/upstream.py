"""A provider with scripted responses that records its requests, which the demo provider does not do."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Sent:
    """A received request."""

    path: str
    headers: dict[str, str]
    body: bytes
    method: str = "POST"

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Upstream:
    """Answers every request with `answer`."""

    url: str = ""
    response: Any = field(default_factory=dict)
    """The response: bytes as they are, anything else as JSON; a function is called with the request."""
    content_type: str = ""
    """If empty: events or JSON, depending on how the response begins."""
    headers: dict[str, str] = field(default_factory=dict)
    """Further headers of the response."""
    status: int = 200
    sent: list[Sent] = field(default_factory=list)

    def says(self, response: bytes, content_type: str = "") -> None:
        """Set the response to later requests."""
        self.response, self.content_type = response, content_type

    @property
    def requested(self) -> list[Any]:
        """The bodies of the received requests, read as JSON."""
        return [request.json() for request in self.sent]


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A gateway may hang up at any time."""


@contextmanager
def serving() -> Iterator[Upstream]:
    """Listens on a free port until the block ends."""
    upstream = Upstream()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            upstream.sent.append(Sent(self.path, headers, body, self.command))
            response = upstream.response(upstream.sent[-1]) if callable(upstream.response) else upstream.response
            response = response if isinstance(response, bytes) else json.dumps(response).encode()
            events = response.startswith((b"data:", b"event:"))
            content_type = upstream.content_type or ("text/event-stream" if events else "application/json")
            self.send_response(upstream.status)
            for name, value in {"content-type": content_type, **upstream.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(response)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(response)

        do_GET = do_HEAD = do_DELETE = do_PUT = do_PATCH = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    with _Server(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        upstream.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield upstream
        finally:
            server.shutdown()
            thread.join()
