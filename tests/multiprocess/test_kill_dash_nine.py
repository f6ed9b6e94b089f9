"""`kill -9` of workers under load, and of their supervisor. Afterwards every response that a client saw complete is
charged once, nothing is charged twice, every hold has ended and the books balance.

FAREBOX_TEST_KILLS sets how many times at least (3; `make long`: 200), FAREBOX_TEST_SEED the random moments.
"""

import asyncio
import os
import random
import signal
from functools import partial

import pytest

from farebox.clock import RandomIds
from farebox.storage.sql import Connection
from farebox.vault import Vault
from tests.calls.kit import put_rules, spend_rule
from tests.calls.random_load import Seen, random_chat
from tests.calls.wire import Wire, WireResponse
from tests.multiprocess.conftest import NewInstallation
from tests.multiprocess.kit import Caller, Installation, Server, eventually, is_alive, send
from tests.waiting import SECONDS

LONG = bool(os.environ.get("FAREBOX_TEST_LONG"))
KILLS = int(os.environ.get("FAREBOX_TEST_KILLS", "200" if LONG else "3"))
SEED = int(os.environ.get("FAREBOX_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
KILLS_MAX = 10 * KILLS
CLIENTS = 16
ACCOUNTS = 3
GRANTED = 1_000 * 10**9

pytestmark = pytest.mark.slow


class Load:
    """Clients that call continuously, whether or not the server is up."""

    def __init__(self, installation: Installation, callers: list[Caller], chance: random.Random) -> None:
        self._installation = installation
        self._callers = callers
        self._chance = chance
        self.seen = Seen()
        self.stopped = False

    async def run(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(CLIENTS)))

    async def _client(self) -> None:
        while not self.stopped:
            caller = self._chance.choice(self._callers)
            await self.seen.wait_for(caller.account_id, self._call(caller))

    async def _call(self, caller: Caller) -> WireResponse:
        body, demo = random_chat(self._chance)
        wire = await Wire.open(self._installation.url)
        try:
            await send(wire, caller, body, demo=demo)
            return await wire.response()
        finally:
            wire.close()


async def kill_workers(server: Server, load: Load, chance: random.Random) -> None:
    """Kill a worker repeatedly, each time when all of them serve, until enough responses were cut off. Whether a kill
    cuts one off is chance."""
    for number in range(KILLS_MAX):
        if number >= KILLS and load.seen.enough(KILLS):
            return
        await answers(load)
        await asyncio.sleep(chance.uniform(0.0, 0.3))
        victim = chance.choice(server.workers)
        os.kill(victim, signal.SIGKILL)
        await replaced(server, victim)


async def answers(load: Load) -> None:
    """Wait until calls are answered."""
    before = len(load.seen.complete)
    await eventually(lambda: len(load.seen.complete) > before + 20, "calls are answered")


async def replaced(server: Server, victim: int) -> None:
    await eventually(lambda: len(server.workers) == 3 and victim not in server.workers, "another was started")


async def test_completed_calls_are_charged_once_whichever_process_is_killed(new_installation: NewInstallation) -> None:
    chance = random.Random(SEED)
    print(f"FAREBOX_TEST_SEED={SEED}")
    installation = new_installation()
    callers = [installation.caller(nanos=GRANTED) for _ in range(ACCOUNTS)]
    for caller in callers:
        installation.write(partial(_limit, account_id=caller.account_id))
    load = Load(installation, callers, chance)
    with installation.serving() as server:
        calling = asyncio.ensure_future(load.run())
        await kill_workers(server, load, chance)
        workers = server.workers
        os.kill(server.process.pid, signal.SIGKILL)
        await eventually(lambda: not any(is_alive(pid) for pid in workers), "no worker serves on")
        assert not calling.done()
    with installation.serving(workers=1):  # a worker ends what the dead ones left open
        await answers(load)
        load.stopped = True
        await asyncio.wait_for(calling, SECONDS)
        await eventually(
            lambda: installation.read("SELECT 1 FROM holds WHERE state = 'open'") == [],
            "all holds ended",
        )
        assert installation.differences() == []

    assert set(load.seen.statuses) <= {200, 502, 503}, "502: the demo provider is in the process that was killed last"
    assert load.seen.repeated == []
    assert load.seen.enough(KILLS), f"no more responses were cut off by {KILLS_MAX} kills"
    charges = charged(installation)
    for log_id, (account, cost) in load.seen.complete.items():
        assert charges.get(log_id) == (account, cost), f"{log_id}: the response was complete"
    receipted = dict(installation.read("SELECT log_id, charge FROM calls WHERE receipt IS NOT NULL"))
    for log_id, (_, cost) in load.seen.complete.items():
        assert receipted[log_id] == cost
    # The kills did hit calls in flight: there are holds that only another process could have ended.
    [(ended,)] = installation.read(
        "SELECT count(*) FROM holds h WHERE state = 'expired' "
        "AND NOT EXISTS (SELECT 1 FROM calls c WHERE c.log_id = h.hold_id)"
    )
    assert ended > 0
    more = len(charges) - len(load.seen.complete)
    assert 0 <= more <= load.seen.without_response + len(load.seen.begun), "charged without a call"
    for caller in callers:
        spent = sum(cost for account, cost in charges.values() if account == caller.account_id)
        assert installation.balance(caller) == (GRANTED - spent, 0)
        sql = "SELECT sum(spent), sum(held) FROM budgets WHERE account_id = $1 GROUP BY split_part(scope, '/', 2)"
        assert installation.read(sql, caller.account_id) == [(spent, 0)] * 2


def _limit(connection: Connection, ids: RandomIds, vault: Vault, at: int, *, account_id: str) -> None:
    """Add two rules that count all calls and refuse none."""
    hourly = {"window": 3600, "technique": "sliding", "token": {"mode": "partition"}}
    put_rules(connection, account_id, at, spend_rule("month", GRANTED), spend_rule("hour", GRANTED, **hourly))


def charged(installation: Installation) -> dict[str, tuple[str, int]]:
    """Log ID → account and sum of all charges; fails the test if a call has two charges."""
    sql = "SELECT transfer_id, account_id, amount FROM transfers WHERE kind = 'charge' ORDER BY transfer_id"
    charges: dict[str, tuple[str, int]] = {}
    for transfer_id, account_id, amount in installation.read(sql):
        log_id, _, part = transfer_id.removeprefix("charge:").partition("/")
        assert (log_id in charges) == bool(part), f"{transfer_id} is a second charge"
        charges[log_id] = (account_id, amount + (charges[log_id][1] if part else 0))
    return charges
