"""A process is declared dead while its call is running, and the hold is charged in full (FAREBOX_IN_DOUBT)."""

import asyncio
from collections.abc import Iterator

import pytest

from farebox.ledger.commands import Outcome, Settle
from farebox.ledger.recovery import left_open
from tests.calls.gate import MODEL, SLUG, gated
from tests.calls.kit import differences
from tests.calls.wire import chat_body, start
from tests.engines import ON_BOTH_ENGINES
from tests.support import Farebox, running_farebox
from tests.waiting import eventually

pytestmark = [pytest.mark.slow, *ON_BOTH_ENGINES]


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(tmp_path_factory.mktemp("farebox")) as served:
        yield served


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_of_a_process_declared_dead_completes_and_is_charged_once(
    farebox: Farebox, *, stream: bool
) -> None:
    customer = farebox.funded("5")
    services = farebox.services
    with gated(farebox) as gate:
        wire = await start(customer, chat_body(model=f"{SLUG}/{MODEL}", max_tokens=50, stream=stream))
        await eventually(lambda: gate.waiting == 1, "the call is under way")
        (hold,) = await asyncio.to_thread(farebox.run, services.database.scan(lambda c: left_open(c, "")))
        charge = Settle(
            account_id=hold.account_id, hold_id=hold.hold_id, amount=hold.amount, at=services.clock.now_ms()
        )
        verdict = await asyncio.to_thread(farebox.run, services.ledger.do(charge))
        assert verdict.outcome is Outcome.DONE
        gate.open()
        response = await asyncio.wait_for(wire.response(), 10)
    assert response.status == 200
    assert b"[DONE]" in response.body if stream else b"through" in response.body
    assert "farebox-charge-usd" not in response.headers, "its charge is not the cost of this response"
    assert (customer.balance.posted, customer.balance.held) == (verdict.posted, 0)
    assert differences(farebox) == []
