import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from tests.support import Farebox


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The server is tested on uvloop, which Farebox uses, and on asyncio's own loop, because their transports
    differ."""
    if item.path.name.startswith("test_server_"):
        return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="session")
def seed_account(farebox: Farebox) -> str:
    """The account of Cloudflare's example programs, whose ID was chosen by the operator."""
    return farebox.create_account(account_id="account_id")
