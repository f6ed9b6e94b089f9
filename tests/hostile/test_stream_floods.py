"""Streams of very many small parts: single bytes, empty events, comments, an endless event. They are relayed and
charged by their usage, nothing of them stays in memory, and other accounts' calls continue meanwhile."""

import pytest

from farebox.providers.formats.event_reader import EVENT_BYTES_MAX
from tests.calls.kit import differences, price_of
from tests.hostile.stepwise import CHAT, COMPAT, END, requesting, stepwise, words
from tests.support import Customer, Farebox
from tests.waiting import until

HELLO = words("Hello")
PIECE = 2**16

FLOODS = {
    "single bytes": [bytes([byte]) for byte in HELLO * 8],
    "empty events": [b"\n" * PIECE, b"\r\n" * (PIECE // 2), b"data:\n\n" * (PIECE // 7)],
    "comments": [b":\n\n" * (PIECE // 3), b": x\n" * (PIECE // 4)] * 4,
    "fields of an event without data": [b"event: x\n" * (PIECE // 9)] * 20,
    "comments in an event that does not end": [b"data: {\n", *[b":\n" * (PIECE // 2)] * 20],
    "data of an event that does not end": [b"data: {\n", *[b"data: 1,\n" * (PIECE // 9)] * 20],
    "text that is no event": [b"x\n" * (PIECE // 2)] * 8,
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_a_flood_of_events_passes_without_being_stored(
    farebox: Farebox, customer: Customer, flood: list[bytes]
) -> None:
    other, before = farebox.funded("5"), customer.balance.posted
    size = sum(map(len, flood))
    with stepwise(farebox) as provider, requesting(customer, COMPAT, CHAT) as stream:
        provider.say(HELLO, *flood)
        # Only a bounded part of an unfinished event is kept: the rest has been relayed before the next chunk is sent.
        stream.until_bytes(size - EVENT_BYTES_MAX - 10)
        assert other.chat().status_code == 200
        provider.say(b"\n\n", *END)
        provider.end()
        assert END[-1] in stream.rest()
        assert len(stream.got) >= size
    until(lambda: customer.balance.held == 0, "the hold ended")
    assert customer.balance.posted == before - price_of(3, 2)
    until(lambda: farebox.services.held.held_bytes == 0, "nothing is kept")
    assert differences(farebox) == []
