"""A gateway's rate limit over several processes: how much they may admit together, and when all refuse."""

import asyncio
import time

import msgspec
import pytest

from farebox.gateway import GatewayConfig
from farebox.storage.gateways import GatewayRow, put_gateway
from tests.calls.wire import chat_body
from tests.multiprocess.kit import Caller, Installation, Server, call, calls, eventually
from tests.waiting import pauses

pytestmark = pytest.mark.slow

LIMIT = 30
DAY_SECONDS = 86_400
EXCHANGE_SECONDS = 0.5
"""The maximum age of a process's knowledge about the others (docs/limits.md)."""
AT_ONCE = 6
"""Calls per step."""
STEP_SECONDS = 0.25
GRACE_SECONDS = 10.0
"""Tolerance for a process that a busy machine kept from exchanging its counts."""


def limited(installation: Installation, caller: Caller, **config: object) -> None:
    """The account's gateway `limited`."""

    def write(connection: object, _: object, __: object, at: int) -> None:
        encoded = msgspec.json.encode(GatewayConfig(**config))  # type: ignore[arg-type]
        put_gateway(connection, GatewayRow(caller.account_id, "limited", encoded, at, at))  # type: ignore[arg-type]

    installation.write(write)


@pytest.mark.parametrize("technique", ["fixed", "sliding"])
async def test_processes_share_a_limit(installation: Installation, server: Server, technique: str) -> None:
    assert len(server.workers) == 3
    caller = installation.caller()
    limited(
        installation,
        caller,
        rate_limiting_interval=DAY_SECONDS,
        rate_limiting_limit=LIMIT,
        rate_limiting_technique=technique,
    )
    admitted: list[float] = []
    refused = 0
    body = chat_body()
    # Calls at a steady rate: each process admits calls until it learns that the limit is reached.
    deadline = time.monotonic() + 30
    while refused < 4 * AT_ONCE:
        assert time.monotonic() < deadline
        tick = time.monotonic()
        for response in await calls(installation, caller, body, AT_ONCE, gateway="limited"):
            if response.status == 200:
                admitted.append(tick)
            else:
                assert (response.status, response.code) == (429, 2003), response.body
                refused += 1
        await asyncio.sleep(max(0.0, tick + STEP_SECONDS - time.monotonic()))
    reached = admitted[LIMIT - 1]
    assert len(admitted) >= LIMIT
    late = [tick for tick in admitted[LIMIT:] if tick > reached + EXCHANGE_SECONDS + 2 * STEP_SECONDS + GRACE_SECONDS]
    assert late == [], "admitted when every process must have known"
    for pause in pauses("every process knows"):
        again = await calls(installation, caller, body, 30, gateway="limited")
        if more := sum(response.status == 200 for response in again):
            admitted += [time.monotonic()] * more
            await asyncio.sleep(pause)
        else:
            break
    assert {response.status for response in again} == {429}
    assert {int(response.headers["retry-after"]) > 0 for response in again} == {True}
    counted = "SELECT calls FROM rate_counts WHERE account_id = $1"
    await eventually(lambda: installation.read(counted, caller.account_id) == [(len(admitted),)], "all are counted")


async def test_processes_share_the_limit_of_a_token(installation: Installation, server: Server) -> None:
    assert len(server.workers) == 3
    caller = installation.caller()
    rate = ("--rate-limit", "10", "--rate-interval", str(DAY_SECONDS))
    assert installation.command("token", "set", caller.token_id, *rate).returncode == 0
    admitted, refused = 0, 0
    while refused < AT_ONCE:
        for response in await calls(installation, caller, chat_body(), AT_ONCE):
            admitted, refused = admitted + (response.status == 200), refused + (response.status == 429)
    for pause in pauses("every process knows"):
        last = await calls(installation, caller, chat_body(), 30)
        if now_admitted := sum(response.status == 200 for response in last):
            admitted += now_admitted
            await asyncio.sleep(pause)
        else:
            break
    assert {(response.status, response.code) for response in last} == {(429, 2003)}
    counted = "SELECT calls FROM rate_counts WHERE account_id = $1 AND gateway_id = $2"
    key = (caller.account_id, f"token/{caller.token_id}")
    await eventually(lambda: installation.read(counted, *key) == [(admitted,)], "all are counted")
    assert admitted >= 10


async def test_gateways_are_counted_separately(installation: Installation, server: Server) -> None:
    assert len(server.workers) == 3
    caller = installation.caller()
    limited(installation, caller, rate_limiting_interval=DAY_SECONDS, rate_limiting_limit=1)
    first = await call(installation, caller, chat_body(), gateway="limited")
    assert first.status == 200
    assert {response.status for response in await calls(installation, caller, chat_body(), 12)} == {200}
