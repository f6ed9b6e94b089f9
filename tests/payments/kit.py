"""A shop for tests of top-ups: real use cases on a database, a fake Stripe over HTTP, and a clock that tests move."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx

from fake_stripe import RunningFakeStripe, start_fake_stripe
from farebox.billing import auto_top_up, cards, top_up
from farebox.clock import RandomIds
from farebox.ledger.commands import Grant, Hold, Settle
from farebox.ledger.ledger import ledger_of
from farebox.money import NANOS_PER_CENT
from farebox.payments.model import TopUp, TopUpRule
from farebox.payments.stripe import StripeProcessor
from farebox.providers.http1.pool import PooledUpstream
from farebox.runtime.configuration import Configuration
from farebox.runtime.services import Services
from farebox.runtime.waiters import Waiters
from farebox.settings import Settings
from farebox.storage import top_ups as store
from farebox.storage.accounts import add_account, read_balance
from farebox.storage.credit import read_credit
from farebox.storage.database import open_database
from farebox.storage.sql import Connection, row, rows
from farebox.storage.top_up_rules import rule_of
from farebox.vault import Vault
from tests.engines import has_database, read_now, settings_for
from tests.payments.beginnings import Made, beginning, restore, saved
from tests.payments.books import agreed, silent_stops
from tests.payments.clocks import FakesClock, SettableClock
from tests.payments.stripe_kit import local_client

T = TypeVar("T")
Json = dict[str, Any]

START = 1_795_348_800_000  # 2026-11-22 12:00 UTC
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
WEBHOOK_SECRET = "whsec_of_the_tests"
WAIT_SECONDS = 30.0
"""Timeout of the adapter, in seconds: long enough for a busy machine."""
TIMEOUT_SECONDS = 0.8
"""Timeout of the adapter once the test plants a missing response: still long enough for real responses. A test that
only needs a lost response plants a reset, which takes no time."""
FORM = {"card-expiry": "12/34", "card-cvc": "123", "card-name": "Ana", "email": "ana@example.com"}
ROUNDS_MAX = 1_000
CHARGES = "POST /v1/invoices/*/pay"


def a_clock(at: int = START) -> SettableClock:
    """A clock whose sleeps take a little real time."""
    return SettableClock(at, pause=0.002)


@asynccontextmanager
async def open_services(
    settings: Settings, clock: SettableClock, instance: str = "", timeout: float = WAIT_SECONDS
) -> AsyncIterator[Services]:
    """Services as farebox.app creates them, without an HTTP server: one process on the database."""
    ids = RandomIds(clock)
    vault = Vault(bytes(32))
    database = await open_database(settings)
    processor = StripeProcessor(
        settings.stripe_secret_key,
        webhook_secret=WEBHOOK_SECRET,
        api_base=settings.stripe_api_base,
        http_client=local_client(timeout),
    )
    upstream = PooledUpstream(connect_seconds=1)
    name = instance or ids.log_id()
    services = Services(
        settings=settings,
        clock=clock,
        ids=ids,
        vault=vault,
        database=database,
        ledger=ledger_of(database, name),
        configuration=await Configuration.load(database, vault, clock),
        upstream=upstream,
        custom_upstream=upstream,
        exports=upstream,
        processor=processor,
        waiters=Waiters(),
        base_url="http://127.0.0.1:1",
        instance=name,
    )
    try:
        yield services
    finally:
        await services.tasks.drain(10)
        await processor.close()
        await upstream.close()
        await services.ledger.close()
        await database.close()


class Shop:
    """One account's server, its Stripe and its time."""

    def __init__(self, services: Services, clock: SettableClock, http: httpx.AsyncClient) -> None:
        self.services = services
        self.clock = clock
        self.http = http
        self.account = ""

    # --- the account ---

    async def open_account(self, card: str | None = "pm_card_visa") -> str:
        """Create the account that all methods use, with a saved card unless None."""
        account_id = self.services.ids.account_id()
        await self.services.database.write(lambda c: add_account(c, account_id, "Acme", self.clock.at))
        self.account = account_id
        if card is not None:
            await self.save_card(card)
        return account_id

    async def save_card(self, card: str = "pm_card_visa", behave: str | None = None) -> str:
        """Save a card as the default, like the hosted page. `behave`: its behavior from now on."""
        customer = await cards.customer_of(self.services, self.account)
        method = (await self.stripe(f"payment_methods/{card}/attach", customer=customer))["id"]
        await self.stripe(f"customers/{customer}", **{"invoice_settings[default_payment_method]": method})
        if behave is not None:
            await self.steer(f"cards/{method}", behave=behave)
        await cards.refresh(self.services, self.account)
        return str(method)

    async def grant(self, cents: int) -> None:
        at, name = self.clock.at, self.services.ids.log_id()
        amount = cents * NANOS_PER_CENT
        await self.services.ledger.do(Grant(account_id=self.account, grant_id=name, amount=amount, at=at))

    async def spend(self, cents: int) -> None:
        """Hold and settle, like a call."""
        name, at, amount = self.services.ids.log_id(), self.clock.at, cents * NANOS_PER_CENT
        held = await self.services.ledger.do(
            Hold(account_id=self.account, hold_id=name, amount=amount, at=at, expires_at=at + HOUR)
        )
        assert held.ok, held
        await self.services.ledger.do(Settle(account_id=self.account, hold_id=name, amount=amount, at=at))

    @property
    def cents(self) -> float:
        """The posted balance."""
        balance = self.read(lambda c: read_balance(c, self.account))
        assert balance is not None
        return balance.posted / NANOS_PER_CENT

    # --- buying ---

    async def buy(self, cents: int = 5_000, **more: Any) -> TopUp:
        return await top_up.buy(self.services, self.account, credit_cents=cents, **more)

    async def set_rule(self, amount: int = 1_000, threshold: int = 500, **more: Any) -> TopUpRule:
        return await auto_top_up.set_rule(
            self.services, self.account, amount_cents=amount, threshold_cents=threshold, **more
        )

    async def work(self, rounds: int = 1) -> None:
        """Run rounds of the worker, like a server."""
        for _ in range(rounds):
            self.nothing_stopped()
            await auto_top_up.sweep(self.services)
            await top_up.work(self.services)
            self.nothing_stopped()

    def nothing_stopped(self) -> None:
        """Check that no rule has stopped silently, without help from the sweep, which would repair that."""
        found = self.read(lambda c: list(silent_stops(c)))
        assert not found, found

    async def let_pass(self, ms: int, until: Callable[[], bool] = lambda: False) -> None:
        """Let at most `ms` pass, running the worker whenever something is due, or until the condition holds."""
        end = self.clock.at + ms
        for _ in range(ROUNDS_MAX):
            if until():
                return
            await self.work()
            due = self.next_due()
            if due is None or due > end:
                break
            self.clock.at = max(due, self.clock.at + 1)
        else:
            raise AssertionError("the worker is never done: is there a tight loop?")
        self.clock.at = max(end, self.clock.at)
        await self.work()

    def next_due(self) -> int | None:
        """The time of the worker's next task, or None; every path must leave it in the future."""
        found = self.read(
            lambda c: rows(
                c,
                "SELECT next_at FROM top_ups WHERE next_at IS NOT NULL "
                "UNION ALL SELECT until FROM top_up_rules WHERE until IS NOT NULL AND state = 'paused'",
            )
        )
        return min((at for (at,) in found), default=None)

    # --- the state ---

    def read(self, job: Callable[[Connection], T]) -> T:
        return read_now(self.services.database, job)

    def bought_by_hand(self) -> bool:
        """Whether credit was ever bought manually."""
        found = self.read(partial(read_credit, account_id=self.account))
        assert found is not None
        return found.bought_by_hand

    def top_ups(self, kind: str | None = None) -> list[TopUp]:
        """The account's top-ups, oldest first."""
        sql = "SELECT top_up_id FROM top_ups WHERE account_id = ? ORDER BY created_at, top_up_id"
        named = self.read(lambda c: rows(c, sql, (self.account,)))
        found = [self.read(partial(store.find, account_id=self.account, top_up_id=name)) for (name,) in named]
        return [item for item in found if item is not None and kind in (None, item.kind)]

    def the_auto(self) -> TopUp:
        """The only auto top-up."""
        (found,) = self.top_ups("auto")
        return found

    @property
    def rule(self) -> TopUpRule:
        found = self.read(partial(rule_of, account_id=self.account))
        assert found is not None
        return found

    def notices(self, kind: str | None = None) -> list[str]:
        """Kinds of the account's notices, in order; of all but low balance unless one is named."""
        sql = "SELECT kind FROM notices WHERE account_id = ? ORDER BY created_at, notice_id"
        found = self.read(lambda c: rows(c, sql, (self.account,)))
        kinds = [name for (name,) in found if name != "low_balance"]
        return [name for name in kinds if kind in (None, name)]

    def findings(self) -> list[str]:
        return [kind for (kind,) in self.read(lambda c: rows(c, "SELECT kind FROM findings"))]

    def attempts(self) -> list[tuple[int, str | None]]:
        """The times and outcomes of charge attempts."""
        return self.read(
            lambda c: rows(
                c,
                "SELECT started_at, outcome FROM top_up_attempts WHERE account_id = ? ORDER BY started_at",
                (self.account,),
            )
        )

    def armed(self) -> bool:
        found = self.read(lambda c: row(c, "SELECT top_up_below FROM balances WHERE account_id = ?", (self.account,)))
        return found is not None and found[0] is not None

    async def change(self, job: Callable[[Connection], T]) -> T:
        return await self.services.database.write(job)

    # --- the fake ---

    async def stripe(self, path: str, **values: Any) -> Json:
        """POST /v1/{path}, like Stripe's dashboard or a hosted page."""
        response = await self.http.post(f"/v1/{path}", data=values, headers={"authorization": "Bearer sk_test_1"})
        assert response.status_code < 300, response.text
        found: Json = response.json()
        return found

    async def steer(self, path: str, **values: Any) -> Json:
        """POST /_fake/{path}."""
        response = await self.http.post(f"/_fake/{path}", json=values)
        assert response.status_code < 300, response.text
        found: Json = response.json()
        return found

    async def fault(self, match: str, kind: str, **more: Any) -> None:
        if kind.startswith("timeout"):
            processor: Any = self.services.processor
            processor._http._timeout = TIMEOUT_SECONDS
        await self.steer("faults", match=match, kind=kind, **more)

    async def no_faults(self) -> None:
        await self.http.delete("/_fake/faults")

    async def captured(self) -> list[int]:
        """The amounts that Stripe captured, in cents, oldest first."""
        payments = (await self.http.get("/_fake/ledger")).json()["payments"]
        return [payment["amount"] for payment in payments]

    async def charges(self) -> list[str]:
        """The outcomes of charges at the bank, newest first."""
        response = await self.http.get("/v1/charges", headers={"authorization": "Bearer sk_test_1"})
        return [charge["status"] for charge in response.json()["data"]]

    async def requested(self, ending: str = "/pay") -> int:
        """The number of requests whose path has this ending, including repeats."""
        requests = (await self.http.get("/_fake/requests")).json()["requests"]
        return sum(request["method"] == "POST" and request["path"].endswith(ending) for request in requests)

    async def seen_asking(self) -> None:
        """Wait until a charge has arrived at Stripe."""
        for _ in range(1_000):
            if await self.requested():
                return
            await asyncio.sleep(0.005)
        raise AssertionError("no charge was asked for")

    async def invoice(self, payment_id: str | None) -> Json:
        response = await self.http.get(f"/v1/invoices/{payment_id}", headers={"authorization": "Bearer sk_test_1"})
        found: Json = response.json()
        return found

    async def confirm(self, top_up: TopUp, *, passed: bool = True) -> None:
        """The owner opens an invoice's hosted page and pays with the saved card, or fails the bank's confirmation."""
        assert top_up.action_url is not None
        page = await self.http.post(top_up.action_url, data={"saved": top_up.card_id})
        assert page.status_code == 303, page.text
        if page.headers["location"].endswith("/authenticate"):
            await self.http.post(page.headers["location"], data={"result": "complete" if passed else "fail"})

    async def pay_at(self, url: str | None, number: str = "4242424242424242") -> httpx.Response:
        """Pay on a hosted page with this card number."""
        assert url is not None
        return await self.http.post(url, data={**FORM, "card-number": number})

    async def pay_hosted(self, payment_id: str | None, number: str = "4242424242424242") -> None:
        """Pay an invoice on its hosted page, to which a processor's e-mail may link."""
        page = (await self.invoice(payment_id))["hosted_invoice_url"]
        assert (await self.pay_at(page, number)).status_code == 303

    async def agree(self) -> None:
        """Check that our books equal Stripe's, to the cent."""
        await agreed(self.services, str(self.http.base_url))


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until the condition holds."""
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to that")


@asynccontextmanager
async def open_shop(folder: Path, **settings: object) -> AsyncIterator[Shop]:
    """A shop with an account that has a working card. If the folder has a database, they are added to it."""
    if has_database(folder):
        async with _empty_shop(folder, a_clock(), **settings) as (shop, _):
            await shop.open_account()
            yield shop
            shop.nothing_stopped()
        return
    low_balance = settings.get("low_balance_cents", 0)  # becomes the account's setting with its first card
    begun = beginning(("shop", low_balance), partial(_begin, low_balance))
    begun.lay_out(folder)
    async with _empty_shop(folder, a_clock(begun.made.at), **settings) as (shop, fake):
        restore(fake, begun.made.fake)
        shop.account = begun.made.account
        yield shop
        shop.nothing_stopped()


@asynccontextmanager
async def _empty_shop(
    folder: Path, clock: SettableClock, **settings: object
) -> AsyncIterator[tuple[Shop, RunningFakeStripe]]:
    async with (
        await start_fake_stripe(clock=FakesClock(clock)) as fake,
        httpx.AsyncClient(base_url=fake.url) as http,
    ):
        loaded = settings_for(
            folder,
            stripe_secret_key="sk_test_1",
            stripe_webhook_secret=WEBHOOK_SECRET,
            stripe_api_base=fake.url,
            log_level="error",
            **{"low_balance_cents": 0, "database_timeout_ms": 60_000, **settings},  # enough time for a busy machine
        )
        async with open_services(loaded, clock) as services:
            yield Shop(services, clock, http), fake


async def _begin(low_balance: object, folder: Path) -> Made:
    clock = a_clock()
    async with _empty_shop(folder, clock, low_balance_cents=low_balance) as (shop, fake):
        await shop.open_account()
        state = saved(fake)
    return Made(shop.services.settings, state, clock.at, shop.account)


def with_settings(services: Services, **changes: Any) -> Services:
    """The same process after a restart with other settings."""
    return dataclasses.replace(services, settings=dataclasses.replace(services.settings, **changes))
