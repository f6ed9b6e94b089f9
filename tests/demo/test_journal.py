"""The demo provider's journal, and the provider as a separate process."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import httpx2
import pytest

from farebox.demo_provider.provider import RunningProvider, start_provider
from farebox.http.server import AddressInUse

Until: TypeAlias = Callable[[Callable[[], bool]], Awaitable[None]]

CHAT = "/v1/chat/completions"


async def test_the_journal_shows_what_arrived(demo: RunningProvider, http: httpx2.AsyncClient) -> None:
    await http.post(CHAT + "?a=1", json={"n": 1}, headers=[("X-One", "1"), ("x-one", "2")])
    await http.post(CHAT, content=b"\xff" * 100_000)
    journal = (await http.get("/_demo/journal")).json()
    assert [(entry["method"], entry["path"], entry["query"]) for entry in journal] == [
        ("POST", CHAT, "a=1"),
        ("POST", CHAT, ""),
    ]
    assert journal[0]["headers"]["x-one"] == "1, 2"
    assert journal[0]["body"] == '{"n":1}'
    assert [entry["status"] for entry in journal] == [200, 400]
    assert (journal[1]["body_bytes"], len(journal[1]["body"])) == (100_000, 64 * 1024)
    assert (await http.get("/_demo/journal?last=1")).json() == journal[1:]
    assert (await http.get("/_demo/journal?last=0")).json() == []
    assert (await http.get("/_demo/journal?last=x")).status_code == 400

    stats = (await http.get("/_demo/stats")).json()
    said = 12  # words of the greeting
    assert stats == {
        "requests": 2,
        "open": 0,
        "disconnects": 0,
        "completed": 2,
        "tokens_in": 0,
        "tokens_out": said,
    }
    assert (await http.delete("/_demo/journal")).json() == {}
    assert (await http.get("/_demo/journal")).json() == []
    assert (await http.get("/_demo/stats")).json()["requests"] == 0


async def test_open_calls_are_counted(demo: RunningProvider, http: httpx2.AsyncClient, until: Until) -> None:
    waiting = [asyncio.create_task(http.post(CHAT, json={}, headers={"x-demo": "delay=100"})) for _ in range(3)]
    await until(lambda: demo.app.journal.stats.open == 3)
    assert demo.app.journal.last()[0]["status"] == 0
    await asyncio.gather(*waiting)
    stats = demo.app.journal.stats
    assert (stats.open, stats.completed) == (0, 3)


async def test_closing_releases_waiters(until: Until) -> None:
    provider = await start_provider()
    async with httpx2.AsyncClient(base_url=provider.url) as http:
        waiting = asyncio.create_task(http.post(CHAT, json={}, headers={"x-demo": "hang=1"}))
        await until(lambda: provider.app.journal.stats.open == 1)
        await asyncio.wait_for(provider.close(), 1)
        assert (await waiting).status_code == 500


async def test_a_port_in_use_is_reported(demo: RunningProvider) -> None:
    with pytest.raises(AddressInUse):
        await start_provider(port=demo.port)


async def test_the_demo_provider_as_a_separate_process() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "farebox.demo_provider.provider", "--port", "0", stdout=-1, stderr=-1
    )
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), 10)).decode()
    async with httpx2.AsyncClient(base_url=line.split()[-1]) as http:
        assert (await http.post("/chat/completions", json={})).status_code == 200
    process.terminate()
    _, errors = await asyncio.wait_for(process.communicate(), 5)
    assert (process.returncode, errors) == (0, b"")
