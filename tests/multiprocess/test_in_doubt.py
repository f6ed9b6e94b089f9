"""Calls of a dead process, while others keep serving, are found and ended by FAREBOX_IN_DOUBT, but no calls of live
processes. A process that was only cut off charges late."""

import asyncio
import os
import signal

import pytest

from tests.calls.gate import Gate
from tests.calls.wire import Wire
from tests.multiprocess.conftest import NewInstallation
from tests.multiprocess.kit import Caller, Installation, eventually, gated, start
from tests.multiprocess.test_exact_admission import PRICE, eventually_known, gate_body
from tests.waiting import SECONDS

pytestmark = pytest.mark.slow

CALLS = 18


async def under_way(installation: Installation, gate: Gate) -> tuple[Caller, list[Wire]]:
    """Calls in more than one process, none of them answered."""
    body = gate_body(stream=False)
    await eventually_known(installation, gate, body)
    caller = installation.caller()
    wires = [await start(installation, caller, body) for _ in range(CALLS)]
    await eventually(lambda: gate.waiting == CALLS, "all reached the provider")
    assert len(states(installation, caller)) > 1, "only one process had calls"
    return caller, wires


def states(installation: Installation, caller: Caller) -> dict[str, dict[str, int]]:
    """Owner → state of its holds → how many."""
    sql = "SELECT owner, state, count(*) FROM holds WHERE account_id = $1 GROUP BY 1, 2"
    by_owner: dict[str, dict[str, int]] = {}
    for owner, state, count in installation.read(sql, caller.account_id):
        by_owner.setdefault(owner, {})[state] = count
    return by_owner


async def answered(wires: list[Wire]) -> list[int]:
    """The statuses of the calls that were answered."""

    async def status(wire: Wire) -> int:
        try:
            return (await wire.response()).status
        except (ConnectionError, asyncio.IncompleteReadError):
            return 0

    return list(await asyncio.wait_for(asyncio.gather(*(status(wire) for wire in wires)), SECONDS))


async def test_the_holds_of_a_killed_process_expire_and_no_others(new_installation: NewInstallation) -> None:
    installation = new_installation()
    with installation.serving() as server, gated(installation) as gate:
        caller, wires = await under_way(installation, gate)
        before = states(installation, caller)
        for pid in server.workers[:2]:
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: len(installation.logged("instance_lost")) == 2, "both are found to be dead")
        after = states(installation, caller)
        dead = {owner for owner, counts in after.items() if "expired" in counts}
        assert all(after[owner] == {"expired": before[owner]["open"]} for owner in dead)
        assert all(after[owner] == before[owner] for owner in before.keys() - dead), (
            "a hold of a live process was changed"
        )
        lines = installation.logged("call_in_doubt_resolved")
        ended = sum(before[owner]["open"] for owner in dead)
        assert len(lines) == len({line["hold_id"] for line in lines}) == ended, "each is logged once"
        assert {(line["policy"], line["owner"]) for line in lines} == {("release", owner) for owner in dead}
        gate.open()
        statuses = await answered(wires)
        assert (statuses.count(200), statuses.count(0)) == (CALLS - ended, ended)
        assert installation.balance(caller) == (5_000_000_000 - (CALLS - ended) * PRICE, 0)
    assert installation.differences() == []


async def test_calls_in_doubt_are_charged_if_the_operator_chooses_so(new_installation: NewInstallation) -> None:
    installation = new_installation(in_doubt="charge")
    with installation.serving(workers=2) as server, gated(installation) as gate:
        caller, wires = await under_way(installation, gate)
        before = states(installation, caller)
        posted, held = installation.balance(caller)
        each = held // CALLS
        for pid in server.workers:
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: installation.balance(caller)[1] == 0, "every hold ended")
        assert {tuple(counts) for counts in states(installation, caller).values()} == {("settled",)}
        assert installation.balance(caller) == (posted - CALLS * each, 0)
        # The lines are written after the commit, even that of the last hold.
        await eventually(lambda: len(installation.logged("call_in_doubt_resolved")) >= CALLS, "all are logged")
        lines = installation.logged("call_in_doubt_resolved")
        assert {(line["policy"], line["owner"]) for line in lines} == {("charge", owner) for owner in before}
        assert len(lines) == CALLS
        for wire in wires:
            wire.close()
    assert installation.differences() == []


async def test_a_process_that_was_only_cut_off_charges_late(new_installation: NewInstallation) -> None:
    installation = new_installation()
    with installation.serving() as server, gated(installation) as gate:
        caller, wires = await under_way(installation, gate)
        stopped = server.workers[:2]  # with most of the calls, and one process remains as failure detector
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        await eventually(lambda: installation.logged("instance_lost"), "one is taken for dead")
        await eventually(lambda: len(installation.read("SELECT 1 FROM instances")) == 1, "both are taken for dead")
        expired = [counts["expired"] for counts in states(installation, caller).values() if "expired" in counts]
        assert sum(expired) > 0
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        gate.open()
        assert await answered(wires) == [200] * CALLS
        assert {tuple(counts) for counts in states(installation, caller).values()} == {("settled",)}
        assert installation.balance(caller) == (5_000_000_000 - CALLS * PRICE, 0)
        assert len([line for line in installation.logged("hold ended unusually") if line["late"]]) == sum(expired)
        await eventually(lambda: len(installation.read("SELECT 1 FROM instances")) == 3, "they are seen again")
    assert installation.differences() == []
