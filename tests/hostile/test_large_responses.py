"""Large responses: buffered bytes are counted, and decoded objects are bounded."""

import asyncio
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from farebox.providers.formats.openai_chat import OPENAI, _parse_body
from farebox.providers.formats.readers import BodyReader
from tests.calls.gate import SLUG
from tests.calls.kit import differences, log_row, price_of, set_price, set_provider
from tests.calls.upstream import Upstream, serving
from tests.calls.wire import chat_body, post
from tests.engines import ON_BOTH_ENGINES
from tests.hostile.test_held_bytes import MIB, begin, holds
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import until

pytestmark = ON_BOTH_ENGINES

USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """A server that buffers 16 MiB in total, and 8 per account."""
    limits = {"held_bytes_max": 16 * MIB, "account_held_bytes_max": 8 * MIB}
    with running_farebox(tmp_path_factory.mktemp("answers"), **limits) as served:
        yield served
        until(lambda: served.services.held.held_bytes == 0, "everything given back")


@pytest.fixture
def provider(farebox: Farebox) -> Iterator[Upstream]:
    with serving() as upstream:
        set_provider(farebox, SLUG, base_url=upstream.url)
        set_price(farebox, SLUG, "*", output_max=100_000)
        yield upstream


def response_of(*choices: Any, count: int, **more: Any) -> bytes:
    made = b",".join(json.dumps(choice).encode() for choice in choices)
    head = json.dumps({"object": "chat.completion", "model": "m", **more}).encode()[:-1]
    return head + b', "choices": [' + b",".join([made] * count) + b'], "usage": ' + json.dumps(USAGE).encode() + b"}"


CHOICE = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}


@pytest.mark.parametrize(
    ("choice", "count"),
    [(CHOICE, 60_000), ({}, 1_500_000), ([], 400_000), ({"index": 0, "message": 5}, 40_000)],
    ids=["choices", "empty ones", "none that are such", "misfits"],
)
async def test_the_usage_of_a_large_response_is_charged(
    customer: Customer, provider: Upstream, choice: Any, count: int
) -> None:
    provider.says(response_of(choice, count=count))
    response = await post(customer, chat_body(model=f"{SLUG}/m"))
    assert (response.status, response.whole, response.body) == (200, True, provider.response)
    receipt = await asyncio.to_thread(customer.receipt, response.log_id)
    assert int(receipt["charge_nanos"]) == price_of(5, 7)


@pytest.mark.parametrize("choice", [{}, [], {"index": 0, "message": 5}, CHOICE])
def test_a_large_response_is_not_decoded_into_objects(choice: Any) -> None:
    size = 4 * MIB
    body = response_of(choice, count=size // (len(json.dumps(choice)) + 1))
    reader = BodyReader(_parse_body, OPENAI)
    tracemalloc.start()
    try:
        for at in range(0, len(body), 65_536):
            reader.feed(body[at : at + 65_536])
        _, seen = reader.close()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seen.usage == {"input_tokens": 5, "output_tokens": 7}
    assert peak < 5 * size


async def test_a_response_without_room_in_memory_is_relayed_as_it_arrives(
    farebox: Farebox, customer: Customer, provider: Upstream
) -> None:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "word " * 100_000}}
    provider.says(response_of(choice, count=1))
    other = await begin(customer, 8 * MIB - 50_000, b"{")
    await holds(customer, 8 * MIB - 50_000)
    response = await post(customer, chat_body(model=f"{SLUG}/m"))
    assert (response.status, response.whole, response.body) == (200, True, provider.response)
    assert "farebox-charge-usd" not in response.headers, "it was not buffered"
    row = await asyncio.to_thread(log_row, customer, response.log_id)
    assert row["success"]
    receipt = await asyncio.to_thread(customer.receipt, response.log_id)
    assert "too large to read" in str(receipt)
    other.hang_up()
    await holds(customer, 0)

    response = await post(customer, chat_body(model=f"{SLUG}/m"))
    assert response.headers["farebox-charge-usd"]
    assert int((await asyncio.to_thread(customer.receipt, response.log_id))["charge_nanos"]) == price_of(5, 7)
    assert not await asyncio.to_thread(differences, farebox)
