"""A scorer for tests, over real HTTP: it finds a hazard if the text contains its word."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = {"bomb": "S9", "slander": "S5", "inject": "P1", "weird": "S14"}


@dataclass
class Scorer:
    """Answers like the hook or like Llama Guard, depending on the path."""

    url: str = ""
    status: int = 200
    broken: bytes | None = None
    """A response to give instead of a verdict."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        return [question.get("text") or question["messages"][-1]["content"] for question in self.asked]


@contextmanager
def scoring() -> Iterator[Scorer]:
    """Listens on a free port until the block ends."""
    scorer = Scorer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["content-length"])))
            scorer.asked.append(question)
            scorer.keys.append(self.headers.get("authorization"))
            chat = self.path.endswith("/chat/completions")
            text = question["messages"][-1]["content"] if chat else question["text"]
            found = [hazard for word, hazard in WORDS.items() if word in text]
            answer: Any = {"categories": found}
            if chat:
                said = "\n\nunsafe\n" + ",".join(found) if found else "\n\nsafe"
                answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": said}}]}
            body = json.dumps(answer).encode() if scorer.broken is None else scorer.broken
            self.send_response(scorer.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        scorer.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield scorer
        server.shutdown()
        thread.join()
