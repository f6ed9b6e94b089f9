"""HTTP/1.1 by hand: a client that sees exactly what arrived and whether it was complete, and that can hang up at any
point."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.support import Customer

COMPAT = "compat/chat/completions"


@dataclass(frozen=True, slots=True)
class WireResponse:
    """The response on one connection, as far as it arrived."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool
    """The body reached the end that its own framing announced."""

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def log_id(self) -> str:
        return self.headers["cf-aig-log-id"]

    @property
    def code(self) -> int:
        """The code of one of our errors in OpenAI's form."""
        code: int = self.json()["errors"][0]["code"]
        return code

    @property
    def events(self) -> list[Any]:
        """Data of the server-sent events; `[DONE]` stays text."""
        found = [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [text if text == "[DONE]" else json.loads(text) for text in found]


class Wire:
    """One connection that carries one request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self._raw = b""
        """The received part of the body, including framing."""

    @classmethod
    async def open(cls, url: str) -> "Wire":
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port))

    async def send(self, path: str, headers: Mapping[str, str], body: bytes, *, sent: int | None = None) -> None:
        """Send a POST; with `sent`, only this many bytes of its body."""
        lines = [f"POST {path} HTTP/1.1", "host: farebox", "connection: close", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + body[:sent])
        await self._writer.drain()

    async def head(self) -> None:
        """Wait for the head of the response."""
        text = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = text.strip().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    async def until(self, marker: bytes) -> None:
        """Wait until these bytes have arrived in the body."""
        while marker not in self._raw:
            chunk = await self._reader.read(65536)
            assert chunk, f"the answer ended before {marker!r}: {self._raw!r}"
            self._raw += chunk

    async def response(self) -> WireResponse:
        """The response, as far as it arrives. Raises ConnectionError or IncompleteReadError if no head arrived."""
        try:
            if not self.status:
                await self.head()
            with contextlib.suppress(ConnectionError):
                while chunk := await self._reader.read(65536):
                    self._raw += chunk
        finally:
            self.close()
        body, whole = self._unframed()
        return WireResponse(self.status, self.headers, body, whole)

    def hang_up(self) -> None:
        """Disconnect like a killed process: the connection is reset."""
        sock: socket.socket = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def close(self) -> None:
        """Disconnect cleanly: the connection is shut down."""
        self._writer.close()

    def _unframed(self) -> tuple[bytes, bool]:
        if self.headers.get("transfer-encoding") == "chunked":
            return _dechunked(self._raw)
        length = int(self.headers.get("content-length", "0"))
        return self._raw, len(self._raw) == length


def _dechunked(raw: bytes) -> tuple[bytes, bool]:
    body, at = b"", 0
    while True:
        end = raw.find(b"\r\n", at)
        if end < 0:
            return body, False
        size = int(raw[at:end], 16)
        if size == 0:
            return body, raw[end:] == b"\r\n\r\n"
        body += raw[end + 2 : end + 2 + size]
        at = end + 2 + size + 2


def chat_body(text: str = "Hello there", **fields: Any) -> bytes:
    """A chat completion for the demo model on the compat path."""
    return json.dumps({"model": "demo/demo-1", "messages": [{"role": "user", "content": text}], **fields}).encode()


def native_body(text: str = "Hello there", **fields: Any) -> bytes:
    """A chat completion as it is forwarded, byte for byte, so that its count is known."""
    return chat_body(text, **fields).replace(b"demo/demo-1", b"demo-1")


async def start(customer: Customer, body: bytes, path: str = COMPAT, *, demo: str = "", **headers: str) -> Wire:
    """Send a request and do not wait for its response. `demo` are directives for the provider; in `headers` an
    underscore is a dash."""
    wire = await Wire.open(customer.farebox.url)
    named = {"content-type": "application/json", **customer.headers, **({"x-demo": demo} if demo else {})}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    await wire.send(f"/v1/{customer.account_id}/default/{path}".rstrip("/"), named, body)
    return wire


async def post(customer: Customer, body: bytes, path: str = COMPAT, *, demo: str = "", **headers: str) -> WireResponse:
    """Send a request and take its response."""
    wire = await start(customer, body, path, demo=demo, **headers)
    return await wire.response()


def usage_of(response: WireResponse) -> dict[str, int] | None:
    """The usage that a complete response reports; None if it is incomplete. A stream is complete with its `[DONE]`, the
    last thing that a reader waits for."""
    stream = response.headers["content-type"].startswith("text/event-stream")
    if not (response.body.endswith(b"data: [DONE]\n\n") if stream else response.whole):
        return None
    usage: dict[str, int] = (response.events[-2] if stream else response.json())["usage"]
    return usage
