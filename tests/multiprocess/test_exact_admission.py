"""A balance that covers K holds admits exactly K calls, however many processes receive them."""

import asyncio
import time
from collections.abc import Iterator
from functools import partial

import msgspec
import pytest

from farebox.clock import RandomIds
from farebox.money import NANOS_PER_USD
from farebox.storage.policies import POLICIES, PolicyRow
from farebox.storage.sql import Connection
from farebox.vault import Vault
from tests.calls.gate import INPUT_TOKENS, MODEL, OUTPUT_TOKENS, SLUG, Gate
from tests.calls.kit import price_of, put_rules, spend_rule
from tests.calls.wire import Wire, WireResponse, chat_body
from tests.multiprocess.conftest import NewInstallation
from tests.multiprocess.kit import Caller, Installation, Server, calls, eventually, gated, send, start
from tests.waiting import SECONDS, pauses

pytestmark = pytest.mark.slow

K = 8
IN_FLIGHT = 10 * K
PRICE = price_of(INPUT_TOKENS, OUTPUT_TOKENS)
SCOPES = ("wide", "tight", "token", "user", "policy")
"""Each call counts in all rules and the policy: those of the gateway, of its access token, of its end user."""


def gate_body(*, stream: bool) -> bytes:
    return chat_body(stream=stream).replace(b"demo/demo-1", f"{SLUG}/{MODEL}".encode())


@pytest.fixture(scope="module")
def shared_gate(installation: Installation, server: Server) -> Iterator[Gate]:
    """The provider, which every process knows."""
    with gated(installation) as gate:
        asyncio.run(eventually_known(installation, gate, gate_body(stream=False)))
        yield gate


@pytest.fixture
def gate(shared_gate: Gate) -> Iterator[Gate]:
    """The same: shut, and no call in it."""
    shared_gate.shut()
    yield shared_gate
    shared_gate.open()
    for pause in pauses("the last calls have left"):
        if shared_gate.waiting == 0:
            break
        time.sleep(pause)


def owners(installation: Installation, caller: Caller) -> set[str]:
    """The processes that made holds on the account."""
    return {owner for (owner,) in installation.read("SELECT owner FROM holds WHERE account_id = $1", caller.account_id)}


async def until_two_owners(installation: Installation, caller: Caller, body: bytes) -> int:
    """Make calls until two processes have had some, because one may have admitted all of those before. Returns how many
    were made."""
    made = 0
    while len(owners(installation, caller)) < 2:
        [response] = await calls(installation, caller, body, 1)
        assert response.status == 200
        made += 1
    return made


async def hold_of(installation: Installation, gate: Gate, body: bytes) -> int:
    """The hold of one such call."""
    caller = installation.caller()
    gate.shut()
    before = gate.waiting
    wire = await start(installation, caller, body)
    await eventually(lambda: gate.waiting > before, "the call reached the provider")
    _, held = installation.balance(caller)
    gate.open()
    assert (await asyncio.wait_for(wire.response(), SECONDS)).status == 200
    gate.shut()
    assert held > 0
    return held


async def in_flight(installation: Installation, caller: Caller, body: bytes, count: int) -> list[Wire]:
    """This many calls in flight, each on its own connection, all opened before the first call was sent."""
    wires = await asyncio.gather(*(Wire.open(installation.url) for _ in range(count)))
    await asyncio.gather(*(send(wire, caller, body) for wire in wires))
    return list(wires)


async def refusals(wires: list[Wire], count: int) -> tuple[list[WireResponse], set["asyncio.Task[WireResponse]"]]:
    """Wait until `count` calls were answered; returns them and the calls still in flight."""
    pending = {asyncio.ensure_future(wire.response()) for wire in wires}
    answered: list[WireResponse] = []
    while len(answered) < count:
        done, pending = await asyncio.wait(pending, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
        assert done, f"only {len(answered)} of {count} were answered while the provider was shut"
        answered += [task.result() for task in done]
    return answered, pending


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_balance_of_k_holds_admits_exactly_k_calls(
    installation: Installation, server: Server, gate: Gate, stream: bool
) -> None:
    assert len(server.workers) == 3
    body = gate_body(stream=stream)
    hold = await hold_of(installation, gate, body)
    caller = installation.caller(nanos=K * hold)
    wires = await in_flight(installation, caller, body, IN_FLIGHT)
    refused, pending = await refusals(wires, IN_FLIGHT - K)
    assert gate.waiting == K
    assert installation.balance(caller) == (K * hold, K * hold)
    gate.open()
    admitted = await asyncio.wait_for(asyncio.gather(*pending), SECONDS)

    assert [response.status for response in admitted] == [200] * K
    assert all(response.whole for response in admitted)
    assert {(response.status, response.code) for response in refused} == {(429, 2907)}
    assert installation.balance(caller) == (K * (hold - PRICE), 0)

    # What was released is there for the next ones, at once and to the last hold, in whichever process.
    gate.shut()
    again = installation.balance(caller)[0] // hold
    wires = await in_flight(installation, caller, body, IN_FLIGHT)
    refused, pending = await refusals(wires, IN_FLIGHT - again)
    gate.open()
    admitted = await asyncio.wait_for(asyncio.gather(*pending), SECONDS)
    assert [response.status for response in admitted] == [200] * again
    assert {response.status for response in refused} == {429}
    assert installation.balance(caller) == (K * (hold - PRICE) - again * PRICE, 0)
    ended = await until_two_owners(installation, caller, body)
    assert installation.balance(caller) == (K * (hold - PRICE) - (again + ended) * PRICE, 0)
    assert installation.differences() == []


@pytest.mark.parametrize("tightest", ["account", *SCOPES])
async def test_whichever_budget_is_the_tightest_admits_exactly_k_calls(
    installation: Installation, gate: Gate, tightest: str
) -> None:
    body = msgspec.json.encode(msgspec.json.decode(gate_body(stream=tightest in ("wide", "user"))) | {"user": "ann"})
    hold = await hold_of(installation, gate, body)
    room = {name: (K if name == tightest else 2 * K) * hold for name in ("account", *SCOPES)}
    caller = installation.caller(nanos=room["account"])
    installation.write(partial(_limit, account_id=caller.account_id, room=room))
    wires = await in_flight(installation, caller, body, IN_FLIGHT)
    refused, pending = await refusals(wires, IN_FLIGHT - K)
    assert gate.waiting == K
    assert _counted(installation, caller) == {(0, K * hold)}
    gate.open()
    admitted = await asyncio.wait_for(asyncio.gather(*pending), SECONDS)
    assert [response.status for response in admitted] == [200] * K
    assert {(response.status, response.code) for response in refused} == {(429, 2907)}
    assert installation.balance(caller) == (room["account"] - K * PRICE, 0)
    assert _counted(installation, caller) == {(K * PRICE, 0)}

    ended = K + await until_two_owners(installation, caller, body)
    assert _counted(installation, caller) == {(ended * PRICE, 0)}
    assert installation.differences() == []


def _limit(
    connection: Connection, ids: RandomIds, vault: Vault, at: int, *, account_id: str, room: dict[str, int]
) -> None:
    sliding = {"technique": "sliding", "provider": {"mode": "partition"}}
    put_rules(
        connection,
        account_id,
        at,
        spend_rule("wide", room["wide"]),
        spend_rule("tight", room["tight"], **sliding),
        spend_rule("token", room["token"], token={"mode": "partition"}),
        spend_rule("user", room["user"], user={"mode": "partition"}),
    )
    action = {"type": "limit", "amount": room["policy"] / NANOS_PER_USD, "period": "monthly"}
    policy = {"name": "p", "actor": "all", "resource": "*", "action": {**action, "technique": "named-interval"}}
    text = msgspec.json.encode(policy).decode()
    POLICIES.put(connection, PolicyRow(account_id, "default", "policy", text, None, at, at))


def _counted(installation: Installation, caller: Caller) -> set[tuple[int, int]]:
    """The spent and held amounts of each rule."""
    sql = "SELECT scope, sum(spent), sum(held) FROM budgets WHERE account_id = $1 GROUP BY scope"
    found = installation.read(sql, caller.account_id)
    assert len(found) == len(SCOPES)
    return {(int(spent), int(held)) for _, spent, held in found}


async def eventually_known(installation: Installation, gate: Gate, body: bytes) -> None:
    """Wait until every process knows the provider, which was just set."""
    caller = installation.caller()
    gate.open()
    while {response.status for response in await calls(installation, caller, body, 40)} != {200}:
        pass
    gate.shut()


async def test_waiting_calls_get_credit_released_by_another_process(new_installation: NewInstallation) -> None:
    installation = new_installation(hold_wait_ms="60000")
    with installation.serving(workers=2), gated(installation) as gate:
        body = gate_body(stream=False)
        await eventually_known(installation, gate, body)
        hold = await hold_of(installation, gate, body)
        caller = installation.caller(nanos=hold + 11 * PRICE)
        first = asyncio.ensure_future((await start(installation, caller, body)).response())
        await eventually(lambda: gate.waiting == 1, "the first reached the provider")
        others = [asyncio.ensure_future((await start(installation, caller, body)).response()) for _ in range(11)]
        await asyncio.sleep(0.3)
        assert not any(task.done() for task in [first, *others])
        assert gate.waiting == 1, "a call must not be forwarded without a hold"
        gate.open()
        responses = await asyncio.wait_for(asyncio.gather(first, *others), 30)  # far below hold_wait_ms
        assert [response.status for response in responses] == [200] * 12
        assert len(owners(installation, caller)) > 1, "only one process had calls"
        assert installation.balance(caller) == (hold - PRICE, 0)


async def test_callers_that_hang_up_leave_no_hold_in_any_process(installation: Installation, server: Server) -> None:
    caller = installation.caller()
    wires = [await start(installation, caller, chat_body(stream=True), demo="hang=1") for _ in range(24)]
    await eventually(lambda: installation.balance(caller)[1] > 0, "calls hold money")
    held = "SELECT count(*) FROM holds WHERE account_id = $1 AND state = 'open'"
    await eventually(lambda: installation.read(held, caller.account_id) == [(24,)], "all hold money")
    for wire in wires:
        wire.hang_up()
    await eventually(lambda: installation.balance(caller)[1] == 0, "every hold ended")
    posted, _ = installation.balance(caller)
    charged = installation.read("SELECT coalesce(sum(charge), 0) FROM calls WHERE account_id = $1", caller.account_id)
    assert charged == [(5_000_000_000 - posted,)]
    assert len(owners(installation, caller)) > 1
