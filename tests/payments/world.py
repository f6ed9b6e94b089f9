"""A world for payments with processes that can die anywhere: real use cases on a database, a fake Stripe over HTTP, one
clock.

A `Process` is one life of a server on the database. It dies at a given point: at a writing statement, around a commit,
before a request is sent to Stripe, or when Stripe has executed it and the response has not been read. Dying is as
sudden as kill -9: nothing that it does afterwards reaches the database or Stripe.
"""

import asyncio
import contextlib
import copy
import hashlib
import hmac
import json
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx
import stripe
import uvloop

from fake_stripe import RunningFakeStripe, start_fake_stripe
from farebox.billing import auto_top_up, cards, processor_events, refund, top_up
from farebox.clock import RandomIds
from farebox.ledger.ledger import ledger_of
from farebox.payments.stripe import StripeProcessor
from farebox.providers.http1.pool import PooledUpstream
from farebox.runtime.configuration import Configuration
from farebox.runtime.services import Services
from farebox.runtime.waiters import Waiters
from farebox.settings import Settings
from farebox.storage.accounts import add_account
from farebox.vault import Vault
from tests.engines import backup, looking, settings_for
from tests.payments.beginnings import Made, beginning, restore, saved
from tests.payments.clocks import FakesClock, SettableClock
from tests.payments.crash_injection import CrashInjection, Mortal, open_with_crashes

T = TypeVar("T")
Json = dict[str, Any]
Webhooks = Literal["dropped", "delivered", "tripled"]

ACCOUNT = "acme"
SECRET = "whsec_of_the_tests"
START = 1_795_000_000_000
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
ROUNDS_MAX = 3_000
"""Rounds of the workers after which nothing may be left to do."""


class Fake:
    """A fake Stripe in a loop on a separate thread, so that our crashes do not affect it."""

    def __init__(self, clock: SettableClock) -> None:
        self._clock = clock
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._serve()), name="fake-stripe")
        self._thread.start()
        assert self._started.wait(30)
        self.http = httpx.Client(base_url=self.url, headers={"authorization": "Bearer sk_test_1"})

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with await start_fake_stripe(clock=FakesClock(self._clock)) as running:
            self._running: RunningFakeStripe = running
            self.url = running.url
            self._started.set()
            await self._stop.wait()

    def close(self) -> None:
        self.http.close()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    def _do(self, act: Callable[[], T]) -> T:
        async def run() -> T:
            return act()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(30)

    def save(self) -> str:
        """The whole state."""
        return self._do(lambda: saved(self._running))

    def count(self, kind: str) -> int:
        """The number of objects of a kind."""
        return self._running.app.world.store.count(kind)

    def load(self, state: str) -> None:
        """Restore a saved state."""
        self._do(lambda: restore(self._running, state))

    def post(self, path: str, **values: Any) -> Json:
        """Call the API with form fields, like Stripe's dashboard."""
        response = self.http.post(path, data=values)
        assert response.status_code < 300, response.text
        found: Json = response.json()
        return found

    def steer(self, path: str, **values: Any) -> Json:
        """POST /_fake/{path}."""
        response = self.http.post(f"/_fake/{path}", json=values)
        assert response.status_code < 300, response.text
        found: Json = response.json()
        return found

    def all(self, kind: str, **params: Any) -> list[Json]:
        """A list of the API, oldest first."""
        found: list[Json] = []
        more = True
        while more:
            page = {"limit": 100, **params} | ({"starting_after": found[-1]["id"]} if found else {})
            response = self.http.get(f"/v1/{kind}", params=page).raise_for_status().json()
            found += response["data"]
            more = response["has_more"]
        return found[::-1]


class _Wire(stripe.HTTPXClient):
    """Stripe's HTTP client, with a point before each request is sent and one after it has been executed."""

    def __init__(self, process: "Process") -> None:
        super().__init__(timeout=30.0, verify_ssl_certs=False)  # local plain HTTP; certificates take long to load
        self._process = process

    async def request_async(self, method: Any, url: Any, headers: Any, post_data: Any = None) -> Any:
        path = str(url).partition("/v1/")[2].partition("?")[0]
        self._process.point(f"before {method} {path}")
        response = await super().request_async(method, url, headers, post_data)
        self._process.point(f"after {method} {path}")
        return response


class Process(Mortal):
    """One life of a server: services on the database, until it ends or dies."""

    services: Services
    crash_injection: CrashInjection
    wire: _Wire

    def __init__(self, die_at: int | None) -> None:
        """Created by `begin_life`."""
        super().__init__(die_at)
        self.upstream = PooledUpstream(connect_seconds=1)

    async def end(self) -> None:
        """Close the database; uncommitted changes are undone."""
        await self.cancel_tasks()
        await self.crash_injection.end()
        await self.wire.close_async()  # type: ignore[no-untyped-call]
        await self.upstream.close()


async def begin_life(world: "World", die_at: int | None = None) -> Process:
    """A process on the world's database that dies at this point."""
    process = Process(die_at)
    process.wire = _Wire(process)
    process.crash_injection = await open_with_crashes(world.settings, process)
    ids = RandomIds(world.clock)
    vault = Vault(bytes(32))
    name = ids.log_id()
    process.services = Services(
        settings=world.settings,
        clock=world.clock,
        ids=ids,
        vault=vault,
        database=process.crash_injection.database,
        ledger=ledger_of(process.crash_injection.database, name),
        configuration=Configuration(process.crash_injection.database, vault, world.clock),
        upstream=process.upstream,
        custom_upstream=process.upstream,
        exports=process.upstream,
        processor=StripeProcessor(
            "sk_test_1", webhook_secret=SECRET, api_base=world.fake.url, http_client=process.wire
        ),
        waiters=Waiters(),
        base_url="http://127.0.0.1:8787",
        instance=name,
    )

    return process


# --- the world --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Saved:
    """A snapshot of the world: the database, the fake, the time."""

    put_back: Callable[[], None]
    """Restores the database."""
    fake: str
    at: int
    heard: set[str]
    notes: dict[str, Any]


@dataclass(slots=True)
class World:
    """One account's server, its Stripe, its time, and the delivery of webhooks."""

    clock: SettableClock
    fake: Fake
    settings: Settings
    webhooks: Webhooks = "dropped"
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    notes: dict[str, Any] = field(default_factory=dict)
    """Values that the steps of a flow share."""
    heard: set[str] = field(default_factory=set)
    """Events that are being delivered or have arrived."""
    on_their_way: list[Json] = field(default_factory=list)

    def save(self, file: Path) -> Saved:
        """Save a snapshot; only while no process is running."""
        return Saved(
            backup(self.settings, file), self.fake.save(), self.clock.at, set(self.heard), copy.deepcopy(self.notes)
        )

    def load(self, saved: Saved, webhooks: Webhooks, seed: int) -> None:
        saved.put_back()
        self.fake.load(saved.fake)
        self.clock.at = saved.at
        self.webhooks, self.chance = webhooks, random.Random(seed)
        self.notes, self.heard, self.on_their_way = copy.deepcopy(saved.notes), set(saved.heard), []

    # --- webhooks ---

    def collect(self) -> None:
        """Collect Stripe's new events for delivery."""
        copies = {"dropped": 0, "delivered": 1, "tripled": 3}[self.webhooks]
        if copies == 0 or self.fake.count("event") == len(self.heard):
            return
        for event in self.fake.all("events"):
            if event["id"] not in self.heard:
                self.heard.add(event["id"])
                self.on_their_way += [event] * copies
        if self.webhooks == "tripled":
            self.chance.shuffle(self.on_their_way)

    async def deliver(self, services: Services) -> int:
        """Deliver some of the collected events; those that are not accepted are delivered again."""
        self.collect()
        count = len(self.on_their_way)
        if self.webhooks == "tripled" and count > 2:
            count = self.chance.randint(1, count)
        for event in self.on_their_way[:count]:
            body = json.dumps(event).encode()
            await processor_events.receive(services, body, signed(body, self.clock.at))
            self.on_their_way.remove(event)
        return count

    # --- the workers ---

    async def settle(self, services: Services, until: int) -> None:
        """Run the workers and let time pass until nothing is due by `until`."""
        swept = -1
        for _ in range(ROUNDS_MAX):
            busy = await self.deliver(services)
            busy += await processor_events.work(services)
            busy += await top_up.work(services)
            busy += await refund.work(services)
            await auto_top_up.sweep(services)
            if busy or self.on_their_way:
                continue
            if swept != self.fake.count("event"):  # an hourly sweep that would find something
                swept = self.fake.count("event")
                await processor_events.sweep_undelivered(services)
                continue
            due = self.next_due()
            if due is None or due > until:
                return
            self.clock.at = max(due, self.clock.at + SECOND)
            self.fake.http.get("/_fake/clock")  # the fake processes what is due by its clock when it is queried
        raise AssertionError(f"never quiet; due: {self.waiting()}")

    def next_due(self) -> int | None:
        waits = [at for _, at in self.waiting()]
        jobs = [job["at"] * 1000 for job in self.fake_jobs()]
        return min(waits + jobs, default=None)

    def fake_jobs(self) -> list[Json]:
        if self.fake.count("_job") == 0:
            return []
        store = self.fake._running.app.world.store
        return self.fake._do(lambda: [dict(job) for job in store.all("_job") if job["act"] != "expire"])

    def waiting(self) -> list[tuple[str, int]]:
        """Rows that have yet to be processed again."""
        with self.reading() as connection:
            found: list[tuple[str, int]] = connection.execute(
                "SELECT 'top_up ' || top_up_id || ' ' || state, next_at FROM top_ups WHERE next_at IS NOT NULL "
                "UNION ALL SELECT 'refund ' || state, next_at FROM refunds WHERE next_at IS NOT NULL "
                "UNION ALL SELECT 'event ' || type || ' ' || coalesce(outcome, ''), next_at FROM processor_events "
                "WHERE next_at IS NOT NULL "
                "UNION ALL SELECT 'rule ' || state, until FROM top_up_rules WHERE until > ?",
                (self.clock.at,),
            ).fetchall()
        return found

    @contextlib.contextmanager
    def reading(self) -> Iterator[Any]:
        with looking(self.settings) as connection:
            yield connection


def signed(body: bytes, at: int) -> str:
    """The signature header of a webhook."""
    moment = at // 1000
    mark = hmac.new(SECRET.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={mark}"


@contextlib.contextmanager
def open_world(folder: Path, card: str | None = "pm_card_visa", /, **settings: object) -> Iterator[World]:
    """A world with an account, its customer at Stripe, and a saved card unless None."""
    begun = beginning(("world", card), partial(_begin, card))
    begun.lay_out(folder)
    with _empty_world(folder, **settings) as world:
        world.fake.load(begun.made.fake)
        world.clock.at = begun.made.at
        yield world


@contextlib.contextmanager
def _empty_world(folder: Path, **settings: object) -> Iterator[World]:
    clock = SettableClock(START)
    fake = Fake(clock)
    loaded = settings_for(
        folder,
        stripe_secret_key="sk_test_1",
        stripe_webhook_secret=SECRET,
        stripe_api_base=fake.url,
        log_level="error",
        **settings,
    )
    try:
        yield World(clock, fake, loaded)
    finally:
        fake.close()


@contextlib.asynccontextmanager
async def living(world: World, die_at: int | None = None) -> AsyncIterator[Process]:
    """A process, which is ended with the block."""
    process = await begin_life(world, die_at)
    try:
        yield process
    finally:
        await process.end()


async def _begin(card: str | None, folder: Path) -> Made:
    with _empty_world(folder) as world:
        async with living(world) as process:
            services = process.services
            await services.database.write(lambda c: add_account(c, ACCOUNT, "Acme", world.clock.at))
            await cards.customer_of(services, ACCOUNT)
            if card is not None:
                await save_card(world, services, card)
            await world.settle(services, world.clock.at)
        return Made(world.settings, world.fake.save(), world.clock.at)


async def save_card(world: World, services: Services, card: str) -> str:
    """Save a card as the default, like the hosted page; the payment method."""
    customer = await cards.customer_of(services, ACCOUNT)
    method = world.fake.post(f"/v1/payment_methods/{card}/attach", customer=customer)["id"]
    world.fake.post(f"/v1/customers/{customer}", **{"invoice_settings[default_payment_method]": method})
    await cards.refresh(services, ACCOUNT)
    return str(method)
