"""What tests of payments begin with, made once in a test process: a database and its fake Stripe, then copied."""

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
    """How `make` left things: nothing has the database open any more."""

    settings: Settings
    fake: str
    """What `saved` gave."""
    at: int
    """What the clock says."""
    account: str = ""


@dataclass(frozen=True, slots=True)
class Beginning:
    """Begin with `lay_out`, before the settings of the folder are made."""

    made: Made
    lay_out: Callable[[Path], None]
    """Gives a folder that has no database a copy."""


_kept: dict[tuple[str, object], Beginning] = {}


def beginning(name: object, make: Callable[[Path], Coroutine[Any, Any, Made]]) -> Beginning:
    """The beginning of that name, on the engine of the test. `make` gets an empty folder, and a loop of its own."""
    key = engine_now(), name
    if key not in _kept:
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as thread:
            made = thread.submit(lambda: asyncio.run(make(Path(folder)))).result()
            _kept[key] = Beginning(made, template_of(made.settings))
    return _kept[key]


def saved(fake: RunningFakeStripe) -> str:
    """Everything it knows. In its loop, as `restore`."""
    return json.dumps(list(fake.app.world.store._by_id.values()))


def restore(fake: RunningFakeStripe, state: str) -> None:
    """Be as that one was then."""
    app = fake.app
    app.world.store.clear()
    app.faults.queue.clear()
    app.requests.clear()
    app.deliverer.forget()
    for thing in json.loads(state):
        app.world.store.add(thing)
    app.world.set_public_url(fake.url)
