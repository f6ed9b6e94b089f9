"""Reading requests from the bytes of one connection.

llhttp parses in its strict mode: bare line feeds, folded lines, a space before a colon, two lengths, or a length
together with chunks are errors. Anything ambiguous that it accepts is refused here.
"""

from collections import deque

import httptools

from farebox.http.exchange import RequestHead
from farebox.http.server.cached_head import CachedHead, cacheable_head
from farebox.http.server.exchange import Http1Exchange, Wire
from farebox.http.server.headers import add_header, is_host, named_host, split_target
from farebox.http.server.request_lines import RequestLines
from farebox.memory_files import LARGE_BYTES

PIPELINED_MAX = 64
"""Maximum number of requests that wait for the one before them."""
CACHED_HEADS_MAX = 1_024
"""Maximum number of connections of a server that cache a head, with what the handler has derived from it: about 10 KiB
each."""
CHUNKS_FREE = 1_000
CHUNK_BYTES_MIN = 64
"""Minimum average size of a body's chunks, except for the first CHUNKS_FREE: each chunk takes some work, whatever its
size, and a body of single bytes would delay other requests for seconds."""

_ONCE = frozenset({"host", "content-length", "transfer-encoding"})
_NAMES_MAX, _NAME_BYTES_MAX = 1024, 64
_names: dict[bytes, str] = {}
"""Names of request headers by spelling, as a cache."""


class RequestReader:
    """Creates exchanges from received data. The parser calls its `on_…` methods."""

    __slots__ = (
        "_ahead",
        "_arriving",
        "_cached_head",
        "_chunks",
        "_head_bytes",
        "_head_lines",
        "_headers",
        "_life",
        "_limits",
        "_lines",
        "_parser",
        "_target",
        "_upgrading",
        "_wire",
        "pending",
        "refusal",
        "unread",
        "waiting",
    )

    def __init__(self, wire: Wire) -> None:
        self.waiting: deque[Http1Exchange] = deque()
        """Exchanges whose head has arrived; the body of the last one may still be arriving."""
        self.refusal: tuple[int, str] | None = None
        """Status and message of the response to send after the pending ones."""
        self.unread = 0
        """Bytes since the parser last recognized something: an unfinished head, trailers, chunk extensions."""
        self.pending = 0
        """Bytes of an unfinished head or of trailers that are kept, slightly overestimated."""
        self._wire = wire
        self._life = wire.life
        self._limits = wire.state.limits
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: dict[str, str] = {}
        self._head_bytes = self._head_lines = 0
        self._arriving: Http1Exchange | None = None
        """The exchange whose body is arriving."""
        self._ahead = 0
        """Bytes of its body that are still to come and need no parser, because only the body is in them."""
        self._chunks = 0
        """Number of received pieces of its body."""
        self._upgrading = False
        self._lines = RequestLines()
        self._cached_head: CachedHead | None = None
        """The cached head of an earlier request."""

    def feed(self, data: bytes) -> None:
        """Process received data."""
        if self._ahead or self._cached_head is not None:
            data = self._bypass_parser(data)
        if data and self._life.request != "closed":
            self._parse(data)

    def repeated(self, data: bytes) -> Http1Exchange | None:
        """The exchange if `data` is exactly one request whose head equals the previous one; None if `data` must be
        passed to `feed`. Call it only while the request is idle and none is waiting."""
        known = self._cached_head
        if known is None:
            return None
        body = known.after_head(data)
        if body is None or len(body) != known.length:
            return None
        return Http1Exchange(self._wire, known.head, known.length, known.size, body)

    def _parse(self, data: bytes) -> None:
        size, life = len(data), self._life
        before = life.request
        if before == "idle":
            life.reads("head_begun")
        fed = data
        self._lines.feed(data)
        self.unread += size
        while data and life.request != "closed":
            try:
                self._parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                data = self._resume_after_upgrade(data[upgrade.args[0] :])
            except httptools.HttpParserInvalidMethodError:
                self.refuse(501, "The request method is not supported.")
            except httptools.HttpParserError as error:
                status = 505 if "HTTP version" in str(error) else 400
                self.refuse(status, f"The request is not valid HTTP/1.1: {error}.")
        if before == "idle" and self.waiting and not self.unread and life.request != "closed":
            self._remember(fed, self.waiting[-1])
        self._lines.keep(before, in_head=self.unread > 0 and life.request == "head")
        self._leave_parser()
        if not self.unread:
            self.pending = 0
            return
        head_max = self._limits.header_bytes + self._limits.target_bytes
        self.pending = min(self.pending + size, head_max)
        if self.unread > head_max:
            self.refuse(431, "The request headers are too large.")

    def _leave_parser(self) -> None:
        """Let the rest of a large body of known length bypass the parser, which would copy it without finding anything
        in it. The next request gets a new parser."""
        exchange = self._arriving
        if exchange is None or exchange.length is None or self._upgrading or self._life.request != "body":
            return
        self._ahead = exchange.length - exchange.received
        if self._ahead <= LARGE_BYTES:
            self._ahead = 0
            return
        self._parser = httptools.HttpRequestParser(self)

    def _bypass_parser(self, data: bytes) -> bytes:
        """Process what need not be parsed: the rest of a large body, and requests with a cached head, which have the
        same meaning as the first. Returns what is left for the parser."""
        known, life = self._cached_head, self._life
        while data and life.request != "closed":
            if self._ahead:
                data = self._pass(data)
                continue
            if known is None or life.request != "idle" or len(self.waiting) >= PIPELINED_MAX:
                break
            rest = known.after_head(data)
            if rest is None:
                break
            if len(rest) >= known.length:
                body, data = rest[: known.length], rest[known.length :]
                self.waiting.append(Http1Exchange(self._wire, known.head, known.length, known.size, body))
            else:
                life.reads("head_read")
                exchange = Http1Exchange(self._wire, known.head, known.length, known.size)
                self.waiting.append(exchange)
                self._arriving, self._ahead, data = exchange, known.length, rest
        return data

    def _pass(self, data: bytes) -> bytes:
        """Take the part that belongs to the body. Returns what follows it."""
        exchange = self._arriving
        if exchange is None:
            self._ahead = 0
            return b""
        rest = data[self._ahead :]
        piece = data[: self._ahead] if rest else data
        self._ahead -= len(piece)
        exchange.add(piece)
        if not self._ahead:
            self.on_message_complete()
        return rest

    def _remember(self, data: bytes, exchange: Http1Exchange) -> None:
        """Cache the head of `data`, which was parsed; `exchange` is the last one in it."""
        special = exchange.old or exchange.expects or not exchange.keep_alive or self._upgrading
        if special or exchange.length is None or exchange.headers.get("upgrade") is not None:
            return
        state = self._wire.state
        state.cached_heads -= self._cached_head is not None
        self._cached_head = None
        if state.cached_heads < CACHED_HEADS_MAX:
            self._cached_head = cacheable_head(data, exchange.head, exchange.head_bytes, exchange.received)
            state.cached_heads += self._cached_head is not None

    def refuse(self, status: int, message: str) -> None:
        """Respond with this after the pending responses, and read nothing more."""
        if self._life.request == "closed":
            return
        self._life.reads("refuse")
        self.refusal = (status, message)
        arriving, self._arriving = self._arriving, None
        if arriving is None:
            return
        if self.waiting and self.waiting[-1] is arriving:
            self.waiting.pop()
        else:
            self._life.responds("cut")
        arriving.lose()

    def close(self) -> None:
        """The connection is lost."""
        self.waiting.clear()
        self._arriving = None
        self._wire.state.cached_heads -= self._cached_head is not None
        self._cached_head = None
        del self._parser, self._wire  # break reference cycles, so that no garbage collection is needed

    # --- httptools ---

    def on_message_begin(self) -> None:
        if self._life.request == "closed":
            raise httptools.HttpParserError("there was to be no further request")
        if self._arriving is None:  # otherwise see _resume_after_upgrade
            self._life.reads("head_begun")
            self.unread = 1  # so that a head that follows a complete request counts as begun

    def on_url(self, target: bytes) -> None:
        if self._arriving is not None:  # see _resume_after_upgrade
            return
        self._target += target
        if len(self._target) > self._limits.target_bytes:
            self._fail(414, "The request target is too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._arriving is not None:  # a trailer
            return
        headers, limits = self._headers, self._limits
        self._head_lines += 1
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > limits.header_bytes or self._head_lines > limits.headers:
            self._fail(431, "The request headers are too large.")
        key = _names.get(name) or _learn(name)
        text = value.decode("latin-1").rstrip(" \t")
        if key not in headers:
            headers[key] = text
        elif key in _ONCE:
            self._fail(400, f"The request has more than one header {key}.")
        else:
            add_header(headers, key, text)

    def on_headers_complete(self) -> None:
        if self._arriving is not None:
            return
        parser, headers = self._parser, self._headers
        method, version = parser.get_method().decode("ascii"), parser.get_http_version()
        length = self._judge(method, version, headers)
        if not self._lines.check(b"%b %b HTTP/%b\r\n" % (method.encode(), self._target, version.encode())):
            self._fail(400, "The request line has more than one space between its parts.")
        try:
            path, query = split_target(self._target, method)
            if self._target[:1] != b"/" and (host := named_host(self._target)) is not None:
                headers["host"] = host
        except ValueError as error:
            self._fail(400, f"The request cannot be served: {error}.")
        exchange = Http1Exchange(self._wire, RequestHead(method, path, query, headers), length, self._head_bytes)
        exchange.keep_alive = parser.should_keep_alive()
        exchange.old = version == "1.0"
        exchange.expects = "expect" in headers and not exchange.old
        self._upgrading = "upgrade" in headers and parser.should_upgrade()
        if len(self.waiting) >= PIPELINED_MAX:
            self._fail(503, "Too many pipelined requests.")
        self._life.reads("head_read")
        self._arriving = exchange
        self._chunks = 0
        self.waiting.append(exchange)
        self._target, self._headers = b"", {}
        self._head_bytes = self._head_lines = self.unread = 0

    def on_body(self, data: bytes) -> None:
        self.unread = 0
        self._lines.skip(data)
        exchange = self._arriving
        if exchange is None:
            return
        exchange.add(data)
        if exchange.length is None:
            self._chunks += 1
            if exchange.received < CHUNK_BYTES_MIN * (self._chunks - CHUNKS_FREE):
                self._fail(400, f"The chunks of the request's body are too small: at least {CHUNK_BYTES_MIN} bytes.")

    def on_message_complete(self) -> None:
        exchange = self._arriving
        if exchange is None or self._upgrading:
            return
        self._arriving = None
        self.unread = 0
        exchange.completed()
        self._life.reads("body_read" if exchange.keep_alive else "last_read")

    # --- inside ---

    def _resume_after_upgrade(self, rest: bytes) -> bytes:
        """Continue after a client has offered another protocol (Java's offers HTTP/2 with every first request), which
        the server may ignore. The parser takes the end of such a head for the end of HTTP, so a new one continues from
        the start of the body, whose length it is given. Returns the data to be parsed."""
        self._upgrading = False
        self._parser = httptools.HttpRequestParser(self)
        exchange = self._arriving
        if exchange is None:
            return b""
        if exchange.length == 0:
            self.on_message_complete()
            return rest
        framing = "transfer-encoding: chunked" if exchange.length is None else f"content-length: {exchange.length}"
        self._parser.feed_data(f"POST / HTTP/1.1\r\n{framing}\r\n\r\n".encode())
        return rest

    def _judge(self, method: str, version: str, headers: dict[str, str]) -> int | None:
        """The length of the body; None if it is chunked. Raises HttpParserError if the request cannot be served."""
        if version not in ("1.1", "1.0"):
            self._fail(505, "Use HTTP/1.1.")
        if method == "CONNECT":
            self._fail(501, "This is not a proxy.")
        host = headers.get("host")
        if host is None:
            if version == "1.1":
                self._fail(400, "The request has no Host header.")
        elif not is_host(host):
            self._fail(400, "The request's Host header is malformed.")
        if "expect" in headers and headers["expect"].lower() != "100-continue":
            self._fail(417, "The request's expectation is not supported.")
        coding = headers.get("transfer-encoding")
        if coding is None:
            return int(headers.get("content-length") or 0)
        if version == "1.0" or "content-length" in headers:
            self._fail(400, "The request's length is ambiguous.")
        if coding.lower() != "chunked":
            self._fail(501, "The transfer coding is not supported.")
        return None

    def _fail(self, status: int, message: str) -> None:
        """Abort parsing from within a callback of the parser."""
        self.refuse(status, message)
        raise httptools.HttpParserError(message)


def _learn(name: bytes) -> str:
    key = name.decode("ascii").lower()
    if len(_names) < _NAMES_MAX and len(name) <= _NAME_BYTES_MAX:
        _names[name] = key
    return key
