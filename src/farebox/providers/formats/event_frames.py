"""Amazon's event streams (`application/vnd.amazon.eventstream`): messages in binary framing, each with its length,
headers, a payload and two checksums: one of the first bytes, one of the whole message."""

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from farebox.providers.upstream import UpstreamFailed

FRAME_BYTES_MAX: Final = 2**20
"""A larger message does not come from a model, and is not kept."""
_PRELUDE: Final = struct.Struct(">III")
_SMALLEST: Final = _PRELUDE.size + 4
_TEXT: Final = 7
_FIXED: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value, by its type; values of types 6 and 7 begin with their length."""


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One message."""

    raw: bytes
    headers: Mapping[str, str]
    """The headers that are text: `:message-type`, `:event-type`, `:exception-type`, `:content-type`."""
    payload: bytes


class FrameCutter:
    """Cuts chunks with arbitrary boundaries into messages."""

    __slots__ = ("_buffer", "_checked")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._checked = False
        """Whether the checksum of the current message's first bytes has been verified."""

    @property
    def begun(self) -> int:
        """Bytes received of an incomplete message."""
        return len(self._buffer)

    def push(self, chunk: bytes) -> Iterator[Frame]:
        """Take the next bytes; yield the complete messages. Raises UpstreamFailed if the framing is broken."""
        self._buffer += chunk
        while (size := self._size()) and len(self._buffer) >= size:
            yield _frame(bytes(self._buffer[:size]))
            del self._buffer[:size]
            self._checked = False

    def _size(self) -> int:
        """Size of the current message; 0 while it is unknown."""
        if len(self._buffer) < _PRELUDE.size:
            return 0
        size, headers, checksum = _PRELUDE.unpack_from(self._buffer)
        if not self._checked:
            if zlib.crc32(memoryview(self._buffer)[:8]) != checksum:
                raise _broken("the checksum of a message's first bytes is wrong")
            if not _SMALLEST <= size <= FRAME_BYTES_MAX or headers > size - _SMALLEST:
                raise _broken("a message has an impossible length")
            self._checked = True
        return int(size)


def _frame(raw: bytes) -> Frame:
    size, headers_size, _ = _PRELUDE.unpack_from(raw)
    if zlib.crc32(memoryview(raw)[: size - 4]) != int.from_bytes(raw[-4:]):
        raise _broken("the checksum of a message is wrong")
    end = _PRELUDE.size + headers_size
    try:
        headers = _headers(raw[_PRELUDE.size : end])
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise _broken("the headers of a message cannot be read") from error
    return Frame(raw, headers, raw[end:-4])


def _headers(data: bytes) -> dict[str, str]:
    """The headers in a message. Raises IndexError, KeyError, UnicodeDecodeError."""
    found: dict[str, str] = {}
    at = 0
    while at < len(data):
        start = at + 1 + data[at]
        name, kind = data[at + 1 : start].decode(), data[start]
        at = start + 1
        size = _FIXED[kind] if kind not in (6, _TEXT) else 2 + int.from_bytes(data[at : at + 2])
        if at + size > len(data):
            raise IndexError
        if kind == _TEXT:
            found[name] = data[at + 2 : at + size].decode()
        at += size
    return found


def _broken(words: str) -> UpstreamFailed:
    return UpstreamFailed(f"its event stream is broken: {words}", sent=True, cause="protocol")


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """An encoded message with these text headers."""
    encoded = b"".join(
        bytes([len(name)]) + name.encode() + bytes([_TEXT]) + len(value.encode()).to_bytes(2) + value.encode()
        for name, value in headers.items()
    )
    size = _SMALLEST + len(encoded) + len(payload)
    first = struct.pack(">II", size, len(encoded))
    most = first + zlib.crc32(first).to_bytes(4) + encoded + payload
    return most + zlib.crc32(most).to_bytes(4)
