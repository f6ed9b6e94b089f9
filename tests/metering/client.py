"""An independent client: it keeps every byte of a response, and parses them with the standard library when the
connection ends."""

import asyncio
import http.client
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass
class Response:
    """A response as the client got it."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    broke: bool
    """The connection ended before the response did."""


async def fetch(
    method: str, url: str, headers: Mapping[str, str], body: bytes = b"", enough: Callable[[bytes], bool] | None = None
) -> Response:
    """Send one request on a new connection. `enough` decides, by the bytes so far, when the client hangs up."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    target = place.path + (f"?{place.query}" if place.query else "")
    lines = [f"{method} {target} HTTP/1.1", f"host: {place.netloc}", "connection: close"]
    lines += [f"content-length: {len(body)}", *[f"{name}: {value}" for name, value in headers.items()]]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    got = bytearray()
    try:
        while data := await reader.read(2**20):
            got += data
            if enough is not None and enough(bytes(got)):
                break
    except ConnectionResetError:
        pass
    writer.transport.abort()
    return _read(method, bytes(got))


def _read(method: str, raw: bytes) -> Response:
    response = http.client.HTTPResponse(_Bytes(raw), method=method)  # type: ignore[arg-type]
    try:
        response.begin()
    except http.client.HTTPException:
        return Response(0, {}, raw, broke=True)
    headers = {name.lower(): value for name, value in response.getheaders()}
    try:
        return Response(response.status, headers, response.read(), broke=False)
    except http.client.IncompleteRead:
        return Response(response.status, headers, _unchunked(raw), broke=True)


def _unchunked(raw: bytes) -> bytes:
    """The body of a chunked response that broke off, as far as it arrived."""
    _, _, rest = raw.partition(b"\r\n\r\n")
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return body


class _Bytes:
    """A substitute for the socket of HTTPResponse."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._raw)
