"""How many turns of the event loop a batch waits for more items."""

import asyncio

import pytest

from farebox.storage.batch_wait import AMORTIZED_AT, IDLE_TURNS_MAX, TURNS_MAX, wait_for_more


async def _turns(pending: list[int], *, after: int, more: bool = False) -> int:
    """The turns that the loop makes until the batch is sent; with `more`, each brings an item."""
    waiting = asyncio.ensure_future(wait_for_more(pending, after=after, enough=100))
    turns = 0
    while not waiting.done():
        await asyncio.sleep(0)
        turns += 1
        if more:
            pending.append(0)
    return turns - 1  # the task begins in the first


@pytest.mark.parametrize(
    ("pending", "after", "turns"),
    [
        pytest.param(1, 1, 1, id="no other is expected"),
        pytest.param(1, 2, IDLE_TURNS_MAX, id="others are expected"),
        pytest.param(AMORTIZED_AT - 1, 2, IDLE_TURNS_MAX, id="nearly enough"),
        pytest.param(AMORTIZED_AT, 2, 1, id="enough that waiting gains nothing"),
        pytest.param(100, 2, 0, id="full"),
    ],
)
async def test_turns_without_a_new_item(pending: int, after: int, turns: int) -> None:
    assert await _turns([0] * pending, after=after) == turns


async def test_items_that_keep_arriving_do_not_delay_a_batch_for_long() -> None:
    assert await _turns([0], after=2, more=True) == TURNS_MAX
