"""Comments during silences of an event stream, so that no proxy between us and the client considers it dead.

A comment is a line that begins with a colon (WHATWG HTML, 9.2.6). Most clients skip it, but not all: Google's SDK for
Python raises on one (google-genai 3.6.1), and LiteLLM silently ends a Gemini stream there (1.110.2). So comments are
only sent in formats whose SDKs have been seen to accept them before the first event, between events and before the
last.
"""

import asyncio

from farebox.calls.model import Call
from farebox.http.exchange import HeaderList, ResponseStream
from farebox.providers.sse import BYTE_ORDER_MARK

COMMENT = b": keep-alive\n\n"
"""With an empty line of its own: some clients split a stream at empty lines and inspect the beginning of each piece."""

_TAKEN = frozenset(
    {
        "anthropic_messages",
        "cohere_chat",
        "openai_chat",
        "openai_images",
        "openai_responses",
        "openai_speech",
        "openai_transcript",
        "workers_ai_run",
    }
)
"""Formats whose SDKs accept comments (docs/proxies.md has the versions)."""
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")
_TAIL = 4


def takes_comments(call: Call, status: int, headers: HeaderList) -> bool:
    """Whether comments may be inserted in this response."""
    if status != 200 or call.format is None or call.format.name not in _TAKEN:
        return False
    if call.parsed is None or not call.parsed.stream:
        return False  # declared as events, although no stream was requested
    kinds = {name: value for name, value in headers if name in ("content-type", "content-encoding", "content-length")}
    return kinds.keys() == {"content-type"} and kinds["content-type"].lower().startswith("text/event-stream")


class KeepAlive:
    """Sends a comment after each `seconds` of silence, if what was sent ends with an event. One timer per stream, which
    reschedules itself: one per chunk would cost more than the chunk."""

    __slots__ = ("_last", "_loop", "_seconds", "_spoken", "_stream", "_tail", "_timer")

    def __init__(self, stream: ResponseStream, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._seconds = seconds
        self._last = self._loop.time()
        self._tail: bytes | None = None
        """The end of what the provider has sent; None before its first byte."""
        self._spoken = False
        """Whether a comment has been sent."""
        self._timer = self._loop.call_later(seconds, self._on_timer)

    async def send(self, chunk: bytes) -> None:
        """Send the provider's next bytes. Raises ClientGone."""
        self._last = self._loop.time()
        if self._tail is None and self._spoken:
            chunk = chunk.removeprefix(BYTE_ORDER_MARK)  # clients skip it only at the very start
        self._tail = chunk[-_TAIL:] if len(chunk) >= _TAIL else ((self._tail or b"") + chunk)[-_TAIL:]
        await self._stream.send(chunk)

    def close(self) -> None:
        """Send no more comments: the stream is ending."""
        self._timer.cancel()

    def _on_timer(self) -> None:
        now = self._loop.time()
        if now >= self._last + self._seconds:
            self._last = now
            if self._tail is None or self._tail.endswith(_EVENT_ENDS):
                self._spoken = True
                self._stream.offer(COMMENT)
        self._timer = self._loop.call_at(self._last + self._seconds, self._on_timer)
