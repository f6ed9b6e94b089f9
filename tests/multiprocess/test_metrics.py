"""The metrics of several processes are one page, whichever process serves it."""

import asyncio
import os
import signal
from collections import Counter

import pytest

from tests.calls.wire import chat_body
from tests.hostile.scrape import BEARER, NANOS, TOKEN, Scrape
from tests.multiprocess.conftest import NewInstallation
from tests.multiprocess.kit import calls, eventually, start
from tests.support import free_port

pytestmark = pytest.mark.slow


async def test_workers_count_together_and_a_dead_one_leaves_its_counts(new_installation: NewInstallation) -> None:
    port = free_port()
    installation = new_installation(metrics_port=str(port), metrics_token=TOKEN)
    url = f"http://127.0.0.1:{port}"

    def charged() -> float:
        return Scrape(url, BEARER)("farebox_calls_total", provider="demo", result="charged")

    with installation.serving(workers=2) as server:
        caller = installation.caller()
        responses = await calls(installation, caller, chat_body(), 24)
        assert {response.status for response in responses} == {200}
        for _ in range(6):  # whichever process serves it
            found = await asyncio.to_thread(Scrape, url, BEARER)
            assert found("farebox_calls_total", provider="demo", result="charged") == 24
            assert found("farebox_workers") == 2
        assert found.usd("charge") == 5 * NANOS - installation.balance(caller)[0]
        reported = Counter(dict(labels).get("worker") for name, labels in found.samples if name == "process_open_fds")
        assert reported == {"1": 1, "2": 1}
        main = await asyncio.to_thread(Scrape, installation.url, BEARER)
        assert main("farebox_calls_total", provider="demo", result="charged") == 24

        before = server.workers
        hanging = [await start(installation, caller, chat_body(), demo="hang=1") for _ in range(6)]
        await eventually(lambda: Scrape(url, BEARER)("farebox_calls_in_flight") == 6, "calls under way")
        ended = [asyncio.ensure_future(wire.response()) for wire in hanging]
        os.kill(before[0], signal.SIGKILL)
        await eventually(lambda: len(server.workers) == 2 and before[0] not in server.workers, "another worker")
        assert await asyncio.to_thread(charged) == 24, "the counts of the dead process stay"
        await eventually(lambda: Scrape(url, BEARER)("farebox_workers") == 2, "the new one serves")
        assert {response.status for response in await calls(installation, caller, chat_body(), 12)} == {200}
        found = await asyncio.to_thread(Scrape, url, BEARER)
        assert found("farebox_calls_total", provider="demo", result="charged") == 36
        assert found("farebox_worker_deaths_total") == 1
        left = sum(not response.done() for response in ended)
        await eventually(
            lambda: Scrape(url, BEARER)("farebox_calls_in_flight") == left, "what the dead one had under way has ended"
        )
        for wire in hanging:
            wire.close()
        await asyncio.gather(*ended, return_exceptions=True)
