"""What the demo provider remembers of the calls it received, for tests to inspect."""

from collections import deque
from dataclasses import dataclass

from farebox.demo_provider.prompt import DemoRequest, Json

_BODY_KEPT = 64 * 1024
_CALLS_KEPT = 500


@dataclass(slots=True)
class ReceivedCall:
    """One call, and how its response went."""

    call: DemoRequest
    body_bytes: int
    status: int = 0
    """0 until the response begins."""
    finished: bool = False
    """The response was sent to its end."""

    def shown(self) -> Json:
        """The call as JSON. Values of a repeated header are joined with a comma."""
        headers: dict[str, str] = {}
        for name, value in self.call.headers.items():
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return {
            "method": self.call.method,
            "path": self.call.path,
            "query": self.call.query,
            "headers": headers,
            "body_bytes": self.body_bytes,
            "body": self.call.body.decode(errors="replace"),
            "status": self.status,
            "finished": self.finished,
        }


@dataclass(slots=True)
class Stats:
    """Counts since the start, or since the journal was cleared."""

    requests: int = 0
    open: int = 0
    """Calls being served at this moment."""
    disconnects: int = 0
    """The client disconnected before the end of the response."""
    completed: int = 0
    """Completed calls, including errors, but not responses that a directive broke off."""
    tokens_in: int = 0
    """Input tokens of the responses that have begun."""
    tokens_out: int = 0
    """Output tokens sent, whatever usage was reported."""


class DemoJournal:
    """The latest calls, and the counts of all."""

    def __init__(self) -> None:
        self.stats = Stats()
        self.calls: deque[ReceivedCall] = deque(maxlen=_CALLS_KEPT)

    def begin(self, call: DemoRequest) -> ReceivedCall:
        """Note a call that begins to be served."""
        size = len(call.body)
        if size > _BODY_KEPT:
            call = DemoRequest(call.method, call.path, call.query, call.headers, call.body[:_BODY_KEPT])
        received = ReceivedCall(call, size)
        self.calls.append(received)
        self.stats.requests += 1
        self.stats.open += 1
        return received

    def clear(self) -> None:
        """Forget the calls and restart the counts; calls being served stay counted as open."""
        self.stats = Stats(open=self.stats.open)
        self.calls.clear()

    def last(self, count: int | None = None) -> list[Json]:
        """The latest calls, oldest first; all that are kept unless a count is given."""
        calls = list(self.calls)
        return [received.shown() for received in (calls if count is None else calls[-count:] if count > 0 else ())]
