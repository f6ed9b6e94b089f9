import time

from hypothesis import given
from hypothesis import strategies as st

from farebox.providers.sse import LineCutter


def cut(chunks: list[bytes], limit: int = 100) -> tuple[bytes, list[bytes]]:
    """All output bytes in order, and the returned lines; the LF of a CRLF that was split into two chunks is appended to
    its line."""
    cutter = LineCutter(limit)
    out = b""
    lines: list[bytes] = []
    for chunk in chunks:
        late, whole = cutter.push(chunk)
        out += late + b"".join(whole)
        if late:
            lines[-1] += late
        lines += whole
    return out + cutter.rest(), lines


def test_lines_of_every_kind() -> None:
    stream = b"data: 1\n\n: note\r\n\r\nevent: x\rdata: 2\r\r\n\ndata: 3"
    lines = [b"data: 1\n", b"\n", b": note\r\n", b"\r\n", b"event: x\r", b"data: 2\r", b"\r\n", b"\n"]
    assert cut([stream]) == (stream, lines)


def test_every_place_to_cut_a_chunk_gives_the_same_lines() -> None:
    stream = b"data: 1\n\ndata: a\r\ndata: b\r\n\r\n: c\r\rdata: 2\n\r\n\n\ndata: 3\r"
    whole = cut([stream])[1]
    for i in range(len(stream)):
        for j in range(i, len(stream)):
            assert cut([stream[:i], stream[i:j], stream[j:]]) == (stream, whole)
    assert cut([bytes([byte]) for byte in stream]) == (stream, whole)


@given(
    st.lists(st.sampled_from([b"\n", b"\r", b"\n\n", b"data: x", b"a" * 30]) | st.binary(max_size=8)),
    st.integers(1, 50),
)
def test_no_byte_is_lost_or_added_for_any_input(chunks: list[bytes], limit: int) -> None:
    assert cut(chunks, limit)[0] == b"".join(chunks)


def test_a_long_line_comes_in_pieces_and_the_next_is_whole_again() -> None:
    stream = b"data: 1\n\ndata: " + b"x" * 500 + b"\r\n\r\ndata: 2\n\n"
    for size in (1, 2, 3, 7, 64):
        cutter = LineCutter(100)
        whole: list[bytes] = []
        kept, long = 0, b""
        for at in range(0, len(stream), size):
            was_long = cutter.long
            lines = cutter.push(stream[at : at + size])[1]
            kept = max(kept, len(cutter._partial))
            if was_long and lines:
                long += lines.pop(0)
            if cutter.long and lines:
                long += lines.pop()
            whole += lines
        assert whole[:2] == [b"data: 1\n", b"\n"]
        assert whole[-2:] == [b"data: 2\n", b"\n"]
        assert long.rstrip() == b"data: " + b"x" * 500
        assert kept <= 100


def test_a_line_is_searched_once_only() -> None:
    """A hundred thousand small chunks of one line: searching all of it again for each of them would take minutes."""
    cutter = LineCutter(10**9)
    start = time.process_time()
    for _ in range(100_000):
        cutter.push(b"x" * 70)
        assert time.process_time() - start < 5
    assert cutter.push(b"\n")[1] == [b"x" * 7_000_000 + b"\n"]
