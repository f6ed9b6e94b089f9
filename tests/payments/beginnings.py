"""Starting points for tests of payments: a database and its fake Stripe, created once per test process and then
copied."""

import asyncio
import json
import tempfile
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fake_stripe import RunningFakeStripe
from farebox.settings import Settings
from tests.engines import engine_now, template_of


@dataclass(frozen=True, slots=True)
class Made:
    """The state after `make`: the database is closed."""

    settings: Settings
    fake: str
    """The result of `saved`."""
    at: int
    """The time of the clock."""
    account: str = ""


@dataclass(frozen=True, slots=True)
class Beginning:
    """A starting point. Call `lay_out` before creating the settings of the folder."""

    made: Made
    lay_out: Callable[[Path], None]
    """Copies the database into a folder without one."""


_kept: dict[tuple[str, object], Beginning] = {}


def beginning(name: object, make: Callable[[Path], Coroutine[Any, Any, Made]]) -> Beginning:
    """The starting point with this name, on the engine of the test. `make` gets an empty folder, and runs in a new
    loop."""
    key = engine_now(), name
    if key not in _kept:
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as thread:
            made = thread.submit(lambda: asyncio.run(make(Path(folder)))).result()
            _kept[key] = Beginning(made, template_of(made.settings))
    return _kept[key]


def saved(fake: RunningFakeStripe) -> str:
    """The whole state of the fake Stripe. Like `restore`, it runs in the fake's loop."""
    return json.dumps(list(fake.app.world.store._by_id.values()))


def restore(fake: RunningFakeStripe, state: str) -> None:
    """Restore a saved state."""
    app = fake.app
    app.world.store.clear()
    app.faults.queue.clear()
    app.requests.clear()
    app.deliverer.forget()
    for thing in json.loads(state):
        app.world.store.add(thing)
    app.world.set_public_url(fake.url)
