"""Responses that have arrived in one piece: what is read without the parser is what the parser reads."""

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.providers.http1.in_one_piece import read_whole

PLAIN = (
    b"HTTP/1.1 200 OK\r\nDate: Tue, 01 Dec 2026 10:00:00 GMT\r\ncontent-type: application/json\r\nX-Empty:\r\n"
    b"Connection: Keep-Alive\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\nx-text: caf\xe9\t!\r\n\r\n{}"
)


class Parsed:
    """What the parser makes of it."""

    def __init__(self, data: bytes) -> None:
        self.headers: list[tuple[str, str]] = []
        self.body = b""
        self.ends, self.keeps = 0, False
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(data)
        self.status = self._parser.get_status_code()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.ends += 1
        self.keeps = self._parser.should_keep_alive()


def test_a_plain_response_is_read() -> None:
    found = read_whole(PLAIN)
    assert found is not None
    assert (found.status, found.body, found.hint) == (200, b"{}", "timeout=5")
    assert found.headers == Parsed(PLAIN).headers
    assert ("X-Empty", "") in found.headers
    assert ("x-text", "caf\xe9\t!") in found.headers


@pytest.mark.parametrize(
    ("part", "instead"),
    [
        (b"{}", b"{"),
        (b"{}", b"{}H"),
        (b"200 OK", b"204 No Content"),
        (b"200 OK", b"101 Switching Protocols"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"Keep-Alive\r\n", b"close\r\n"),
        (b"Keep-Alive\r\n", b"keep-alive, close\r\n"),
        (b"X-Empty:", b"Transfer-Encoding: chunked"),
        (b"X-Empty:", b"Upgrade: x"),
        (b"X-Empty:", b"Content-Length: 2"),
        (b"X-Empty:", b"X-Folded: a\r\n b"),
        (b"X-Empty:", b"X-Empty : a"),
        (b"X-Empty:", b"X-Nul: \0"),
        (b"X-Empty:", b"X-Empty: \ra"),
        (b"\r\n\r\n", b"\n\n"),
        (b"Content-Length: 2", b"Content-Length: 02"),
        (b"Content-Length: 2\r\n", b""),
    ],
)
def test_anything_else_is_left_to_the_parser(part: bytes, instead: bytes) -> None:
    assert part in PLAIN
    assert read_whole(PLAIN.replace(part, instead, 1)) is None


NAMES = st.sampled_from(
    ["Content-Length", "content-length", "Connection", "Keep-Alive", "TE", "X", "x-ratelimit-reset"]
)
VALUES = st.sampled_from(
    ["0", "2", "3", "keep-alive", "close", "timeout=5", "a b", "a\tb", " a", "a ", "\xff", "", ":", "chunked"]
)
LINES = st.tuples(NAMES, VALUES, st.sampled_from([": ", ":", ":  ", " :"]))


@given(
    status=st.sampled_from(
        ["HTTP/1.1 200 OK", "HTTP/1.1 429 ", "HTTP/1.1 500", "HTTP/1.1 304 x", "HTTP/1.1 100 Continue"]
    ),
    lines=st.lists(LINES, max_size=6),
    length=st.sampled_from(["", "Content-Length: 2\r\n"]),
    body=st.sampled_from([b"", b"{}", b"\r\n", b"abc"]),
)
@settings(max_examples=400, deadline=None)
def test_it_agrees_with_the_parser(status: str, lines: list[tuple[str, str, str]], length: str, body: bytes) -> None:
    head = "".join(f"{name}{colon}{value}\r\n" for name, value, colon in lines)
    data = f"{status}\r\n{length}{head}\r\n".encode("latin-1") + body
    found = read_whole(data)
    if found is not None:
        parsed = Parsed(data)
        assert (found.status, found.headers, found.body) == (parsed.status, parsed.headers, parsed.body)
        assert (parsed.keeps, parsed.ends) == (True, 1)
