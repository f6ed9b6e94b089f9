"""Whether a response is a stream of events or a document, determined from its first bytes."""

from collections.abc import Callable
from typing import Final, Literal

from farebox.providers.formats.base import Observed, ResponseReader
from farebox.providers.sse import BYTE_ORDER_MARK


class Sniffer:
    """A reader that is chosen by a response's first bytes, because some content types are wrong. `make` creates the
    reader, for events or not. `other` reads what is neither; without it, the declared type decides.
    """

    __slots__ = ("_declared", "_head", "_make", "_other", "decided")

    def __init__(
        self, make: Callable[[bool], ResponseReader], *, declared: bool, other: ResponseReader | None = None
    ) -> None:
        self._make = make
        self._other = other
        self._declared = declared
        self._head = b""
        self.decided: ResponseReader | None = None
        """The chosen reader, once the kind is known."""

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes, and return what passes on."""
        if self.decided is not None:
            return self.decided.feed(chunk)
        head = self._head + chunk
        begun = head.lstrip(b" \t\r\n")
        space = head[: len(head) - len(begun)]
        kind = _kind(begun)
        if kind == "unknown yet":
            self._head = begun
            return space  # a keep-alive comment
        self._head = b""
        self.decided = self._undecided() if kind == "other" else self._make(kind == "events")
        return space + self.decided.feed(begun)

    @property
    def finished(self) -> bool:
        return self.decided is not None and self.decided.finished

    @property
    def holding(self) -> bool:
        return self.decided is not None and self.decided.holding

    @property
    def all_ended(self) -> bool:
        return self.decided is not None and self.decided.all_ended

    @property
    def input_reported(self) -> bool:
        return self.decided is not None and self.decided.input_reported

    @property
    def events(self) -> bool:
        """Whether these are events, as far as known by now."""
        return self._declared if self.decided is None else self.decided.events

    @property
    def kept_bytes(self) -> int:
        return 0 if self.decided is None else self.decided.kept_bytes

    def stop_collecting(self) -> None:
        if self.decided is not None:
            self.decided.stop_collecting()

    def release(self) -> bytes:
        return b"" if self.decided is None else self.decided.release()

    def close(self) -> tuple[bytes, Observed]:
        if self.decided is not None:
            return self.decided.close()
        reader = self._undecided()
        first = reader.feed(self._head) if self._head else b""
        last, seen = reader.close()
        return first + last, seen

    def _undecided(self) -> ResponseReader:
        return self._other or self._make(self._declared)


_MARKS: Final = (b":", b"data:", b"event:", b"id:", b"retry:")


def _kind(head: bytes) -> Literal["events", "document", "other", "unknown yet"]:
    """The kind of response that begins with these bytes."""
    bare = head.removeprefix(BYTE_ORDER_MARK)
    if not bare or BYTE_ORDER_MARK.startswith(head):
        return "unknown yet"
    if bare[:1] in (b"{", b"["):
        return "document"
    if bare.startswith(_MARKS):
        return "events"
    return "unknown yet" if any(mark.startswith(bare) for mark in _MARKS) else "other"
