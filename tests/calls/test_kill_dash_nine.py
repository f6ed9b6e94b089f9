"""`kill -9` at any moment under load, many times. Afterwards every response that a client saw complete is charged once,
nothing is charged twice, every hold has ended and the books balance.

FAREBOX_TEST_KILLS sets how many times at least (4; `make long`: 200), FAREBOX_TEST_SEED the random moments.
"""

import asyncio
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from farebox.clock import RandomIds, SystemClock
from farebox.ledger.audit import audit
from farebox.model import Permission
from farebox.money import parse_usd
from farebox.operator import administer, tokens
from farebox.pricing.stored_receipt import whole
from farebox.settings import secret_key
from farebox.storage.calls import find_receipt
from farebox.storage.database import opened_for_command
from farebox.storage.sql import row, rows
from farebox.vault import Vault
from tests.calls.killed import Installation, check_online, listening, nothing_in_doubt, served
from tests.calls.kit import put_rules, spend_rule
from tests.calls.random_load import Seen, random_chat
from tests.calls.wire import Wire, WireResponse
from tests.engines import TESTER, looking, settings_for
from tests.long import times
from tests.support import free_port

KILLS = int(os.environ.get("FAREBOX_TEST_KILLS", str(times(4, 200))))
SEED = int(os.environ.get("FAREBOX_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
KILLS_MAX = 10 * KILLS
CLIENTS = 16
ACCOUNTS = 3
GRANTED = parse_usd("1000")
LIFE_ANSWERS = 20
"""The minimum average of complete responses per server life that is more than a start, so that there is load even on a
busy machine."""

pytestmark = pytest.mark.slow


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    settings = settings_for(tmp_path)
    ids, vault = RandomIds(SystemClock()), Vault(secret_key(settings))
    at = SystemClock().now_ms()
    customers = []
    with opened_for_command(settings, writing=True) as connection:
        for number in range(ACCOUNTS):
            account = administer.create_account(connection, ids, by=TESTER, name=f"customer {number}", at=at).account_id
            administer.grant(connection, ids, by=TESTER, account_id=account, amount=GRANTED, at=at)
            made = tokens.create_token(connection, ids, vault, account_id=account, permissions=[*Permission], at=at)
            customers.append((account, made.secret))
            most = GRANTED // 2
            hourly = {"window": 3600, "technique": "sliding", "token": {"mode": "partition"}}
            put_rules(connection, account, at, spend_rule("month", most), spend_rule("hour", most, **hourly))
    return Installation(tmp_path, free_port(), customers)


class Load:
    """Clients that call continuously, whether or not the server is up."""

    def __init__(self, installation: Installation, chance: random.Random) -> None:
        self._installation = installation
        self._chance = chance
        self.seen = Seen()
        self.stopped = False

    async def run(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(CLIENTS)))

    async def more(self, count: int, calling: "asyncio.Future[None]") -> None:
        """Wait until `count` more responses are complete."""
        wanted, end = len(self.seen.complete) + count, time.monotonic() + 60
        while len(self.seen.complete) < wanted:
            assert not calling.done()
            assert time.monotonic() < end, "no call is answered"
            await asyncio.sleep(0.005)

    async def _client(self) -> None:
        while not self.stopped:
            account, token = self._chance.choice(self._installation.customers)
            await self.seen.wait_for(account, self._call(account, token))

    async def _call(self, account: str, token: str) -> WireResponse:
        body, demo = random_chat(self._chance)
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json", "x-demo": demo}
        wire = await Wire.open(f"http://127.0.0.1:{self._installation.port}")
        try:
            await wire.send(f"/v1/{account}/default/compat/chat/completions", headers, body)
            return await wire.response()
        finally:
            wire.close()


async def kill_and_restart(installation: Installation, chance: random.Random) -> Seen:
    """Run the server and kill it KILLS times, and then until enough responses were cut off, which is chance; then run
    it once more so that calls in flight can end."""
    load = Load(installation, chance)
    calling = asyncio.ensure_future(load.run())
    for number in range(KILLS_MAX):
        if number >= KILLS and load.seen.enough(KILLS):
            break
        with served(installation) as process:
            if number % 4 == 3:  # during its start, while it recovers what the previous one left open
                await asyncio.sleep(chance.uniform(0.3, 1.2))
            else:
                await listening(installation, process)
                await load.more(chance.randrange(1, 2 * LIFE_ANSWERS), calling)
                await asyncio.sleep(chance.uniform(0.0, 0.3))
            assert not calling.done()
    with served(installation) as process:
        await listening(installation, process)
        await asyncio.sleep(0.3)
        load.stopped = True
        await asyncio.wait_for(calling, 30)
        await nothing_in_doubt(installation)
        check_online(installation)
    return load.seen


async def test_completed_calls_are_charged_once_despite_kills(installation: Installation) -> None:
    chance = random.Random(SEED)
    print(f"FAREBOX_TEST_SEED={SEED}")
    seen = await kill_and_restart(installation, chance)

    assert set(seen.statuses) <= {200, 503}, seen.statuses
    assert seen.repeated == []
    assert len(seen.complete) > 10 * KILLS, "too little load to prove anything"
    assert seen.enough(KILLS), f"no more responses were cut off by {KILLS_MAX} kills"

    with looking(installation.settings) as connection:
        assert list(audit(connection)) == []
        charges = _charges(connection)
        for log_id, (account, cost) in seen.complete.items():
            assert charges.get(log_id) == (account, cost), f"{log_id}: the response was complete"
            receipt = find_receipt(connection, log_id)
            assert receipt is not None
            assert receipt.charge == whole(receipt).charge_nanos == cost
        _compare_balances(connection, installation)
        _compare_budgets(connection, installation)
        # The kills did hit calls in flight: there are holds that only a later process could have ended.
        left = row(
            connection,
            "SELECT count(*) FROM holds h WHERE state IN ('released', 'expired') "
            "AND NOT EXISTS (SELECT 1 FROM calls c WHERE c.bucket = h.bucket AND c.log_id = h.hold_id)",
        )
        assert left is not None
        assert left[0] > KILLS // 2
        more = len(charges) - len(seen.complete)
        assert 0 <= more <= seen.without_response + len(seen.begun), "charged without a call"


def _charges(connection: Any) -> dict[str, tuple[str, int]]:
    """Log ID → account and sum of all charges; fails the test if a call has two charges."""
    charges: dict[str, tuple[str, int]] = {}
    found = rows(
        connection, "SELECT transfer_id, account_id, amount FROM transfers WHERE kind = 'charge' ORDER BY transfer_id"
    )
    names = [transfer_id for transfer_id, _, _ in found]
    assert len(set(names)) == len(names)
    for transfer_id, account_id, amount in found:
        log_id, _, part = transfer_id.removeprefix("charge:").partition("/")
        assert (log_id in charges) == bool(part), f"{transfer_id} is a second charge"
        charges[log_id] = (account_id, amount + (charges[log_id][1] if part else 0))
    return charges


def _compare_budgets(connection: Any, installation: Installation) -> None:
    """Check that both rules have counted every charge, and that nothing is held."""
    for account_id, _ in installation.customers:
        sql = "SELECT sum(spent), sum(held) FROM budgets WHERE account_id = ? AND scope LIKE ?"
        found = {name: row(connection, sql, (account_id, f"default/{name}/%")) for name in ("month", "hour")}
        charged = row(
            connection, "SELECT sum(amount) FROM transfers WHERE account_id = ? AND kind = 'charge'", (account_id,)
        )
        assert charged is not None
        assert found == {"month": (charged[0], 0), "hour": (charged[0], 0)}


def _compare_balances(connection: Any, installation: Installation) -> None:
    for account_id, _ in installation.customers:
        balance = row(connection, "SELECT posted, held FROM balances WHERE account_id = ?", (account_id,))
        spent = row(
            connection,
            "SELECT sum(amount) FROM transfers WHERE account_id = ? AND kind = 'charge'",
            (account_id,),
        )
        assert balance is not None
        assert spent is not None
        assert balance == (GRANTED - (spent[0] or 0), 0)
