"""On PostgreSQL, the last byte of a response waits for the commit of its charge: delaying one delays the other."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from farebox.storage.postgres.connecting import connect
from tests import engines
from tests.calls.gate import MODEL, SLUG, gated
from tests.calls.kit import differences
from tests.calls.wire import chat_body, start
from tests.support import Farebox, running_farebox
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(engines.CHOSEN == "sqlite", reason="on SQLite tests/calls proves this")

WAITING = engines.waiting_for_a_lock("farebox lane")


@pytest.fixture(scope="module")
def farebox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    engines.use_engine("postgres")
    with running_farebox(tmp_path_factory.mktemp("farebox")) as served:
        yield served


@pytest.mark.parametrize("stream", [False, True])
async def test_the_last_byte_is_sent_after_the_charge(farebox: Farebox, *, stream: bool) -> None:
    customer = farebox.funded("5")
    url = farebox.services.settings.database_url
    third, watching = await connect(url, timeout=10, name="third"), await connect(url, timeout=10, name="watching")
    bucket = await third.fetchval("SELECT bucket FROM accounts WHERE account_id = $1", customer.account_id)
    row = "SELECT FROM balances WHERE bucket = $1 AND account_id = $2 FOR UPDATE"
    with gated(farebox) as gate:
        wire = await start(customer, chat_body(model=f"{SLUG}/{MODEL}", max_tokens=50, stream=stream))
        await eventually(lambda: gate.waiting == 1, "the call is under way")
        async with third.transaction():
            await third.execute(row, bucket, customer.account_id)
            answering = asyncio.ensure_future(wire.response())
            gate.open()
            while not await watching.fetchval(WAITING):  # noqa: ASYNC110 - the charge's batch
                await asyncio.sleep(0.01)
            async with httpx.AsyncClient() as client:  # a later request is answered, so everything before it was sent
                for _ in range(5):
                    assert (await client.get(f"{farebox.url}/healthz")).status_code == 200
            assert not answering.done()
            assert b"data: [DONE]\n\n" not in wire._raw, "the last event lacks a byte"
            assert customer.balance.posted == 5 * 10**9
        response = await asyncio.wait_for(answering, 10)
    third.terminate()
    watching.terminate()
    assert response.status == 200
    assert response.whole
    assert customer.balance.posted < 5 * 10**9
    assert differences(farebox) == []
