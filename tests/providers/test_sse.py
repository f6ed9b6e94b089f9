import time

from hypothesis import given
from hypothesis import strategies as st

from farebox.providers.sse import EventSplitter, data_of


def split(chunks: list[bytes], limit: int = 100) -> tuple[bytes, list[bytes]]:
    """All bytes that come out in order, and the events among them."""
    splitter = EventSplitter(limit)
    out, events = b"", []
    for chunk in chunks:
        unread, whole = splitter.push(chunk)
        out += unread + b"".join(whole)
        events += whole
    return out + splitter.rest(), events


def test_cuts_at_empty_lines_of_either_kind() -> None:
    stream = b"data: 1\n\n: note\r\n\r\nevent: x\ndata: 2\n\r\ndata: 3"
    assert split([stream])[1] == [b"data: 1\n\n", b": note\r\n\r\n", b"event: x\ndata: 2\n\r\n"]


def test_every_place_to_cut_a_chunk_gives_the_same_events() -> None:
    stream = b"data: 1\n\ndata: a\r\ndata: b\r\n\r\n: c\n\ndata: 2\n\r\n\n\ndata: 3\n\n"
    whole = split([stream])[1]
    for i in range(len(stream)):
        for j in range(i, len(stream)):
            out, events = split([stream[:i], stream[i:j], stream[j:]])
            assert (out, events) == (stream, whole)
    assert split([bytes([byte]) for byte in stream]) == (stream, whole)


@given(
    st.lists(st.sampled_from([b"\n", b"\r", b"\n\n", b"data: x", b"a" * 30]) | st.binary(max_size=8)),
    st.integers(1, 50),
)
def test_no_byte_is_lost_or_added_whatever_comes(chunks: list[bytes], limit: int) -> None:
    assert split(chunks, limit)[0] == b"".join(chunks)


def test_an_oversize_event_passes_unread_and_reading_goes_on_after_it() -> None:
    stream = b"data: 1\n\ndata: " + b"x" * 500 + b"\r\n\r\ndata: 2\n\n"
    for size in (1, 2, 3, 7, 64):
        splitter = EventSplitter(100)
        events, kept = [], 0
        for at in range(0, len(stream), size):
            events += splitter.push(stream[at : at + size])[1]
            kept = max(kept, len(splitter._pending))
        assert events == [b"data: 1\n\n", b"data: 2\n\n"]
        assert splitter.oversize == 1
        assert kept <= 100


def test_an_oversize_event_may_end_just_where_it_became_oversize() -> None:
    for length in range(90, 110):
        for end in (b"\n\n", b"\r\n\r\n"):
            stream = b"x" * length + end + b"data: 2\n\n"
            out, events = split([stream[at : at + 1] for at in range(len(stream))])
            assert (out, events[-1]) == (stream, b"data: 2\n\n")


def test_a_large_event_is_searched_once_only() -> None:
    """Ten thousand small chunks of one event: searching all of it again for each of them would take minutes."""
    splitter = EventSplitter()
    start = time.process_time()
    for _ in range(10_000):
        splitter.push(b"x\n" * 350)
        assert time.process_time() - start < 5
    assert splitter.push(b"\n")[1] == [b"x\n" * 3_500_000 + b"\n"]


def test_data_of_an_event() -> None:
    assert data_of(b'data: {"a":1}\n\n') == b'{"a":1}'
    assert data_of(b'data:{"a":1}\r\n\r\n') == b'{"a":1}'
    assert data_of(b'event: x\ndata: {"a":\ndata: 1}\nid: 7\n\n') == b'{"a":\n1}'
    assert data_of(b'data: {"a":\r\ndata: 1}\r\n\r\n') == b'{"a":\n1}'
    assert data_of(b'\xef\xbb\xbfdata: {"a":1}\n\n') == b'{"a":1}'
    assert data_of(b": comment\n\n") == b""
    assert data_of(b"event: ping\n\n") == b""
