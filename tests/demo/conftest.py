"""A demo provider in the test's process and loop, called over real HTTP."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import httpx2
import pytest

from farebox.demo_provider.provider import RunningProvider, start_provider

Until: TypeAlias = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
def until() -> Until:
    """Waits until a condition holds; fails if it does not."""

    async def wait(true: Callable[[], bool]) -> None:
        for _ in range(500):
            if true():
                return
            await asyncio.sleep(0.005)
        pytest.fail("the condition did not become true")

    return wait


@pytest.fixture
async def demo() -> AsyncIterator[RunningProvider]:
    async with await start_provider() as provider:
        yield provider


@pytest.fixture
async def http(demo: RunningProvider) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=demo.url, timeout=5) as client:
        yield client
