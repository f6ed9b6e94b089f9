"""The process dies at every point of every payment flow, restarts, and ends with the same books as without a crash.

Webhooks are lost, delivered, or delivered three times in random order. By default some points are tried, different ones
in each flow; `make long` tries them all.
"""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from farebox.billing import auto_top_up, cards, processor_events, refund, top_up
from farebox.errors import CARD_DECLINED, PROCESSOR_UNAVAILABLE, TOP_UP_FAILED, Problem
from farebox.ledger.commands import Hold, Settle
from farebox.money import NANOS_PER_CENT
from farebox.runtime.services import Services
from tests.payments.books import compare
from tests.payments.crash import Flow, Step, differing, live, picture, prepare
from tests.payments.world import ACCOUNT, DAY, MINUTE, SECOND, Saved, Webhooks, World, open_world

LONG = bool(os.environ.get("FAREBOX_TEST_LONG"))
SAMPLE: dict[Webhooks, int] = {"dropped": 2, "delivered": 1, "tripled": 1}
"""The number of points tried by default."""
WEBHOOK_MODES: tuple[Webhooks, ...] = ("dropped", "delivered", "tripled")


# --- our steps: a client calls, and repeats the call with the same key if no response arrived -------------------------


def buys(cents: int = 5000, key: str = "order-1") -> Step:
    async def step(world: World, services: Services) -> None:
        async def buy() -> None:
            await top_up.buy(services, ACCOUNT, credit_cents=cents, request_key=key)

        await retry_until_accepted(world, services, buy)

    return step


async def retry_until_accepted(world: World, services: Services, ask: Callable[[], Awaitable[None]]) -> None:
    """Retry, as often as the SDKs and then an owner would, while the response asks for it."""
    for _ in range(60):
        try:
            await ask()
        except Problem as problem:
            if problem.kind in (CARD_DECLINED, TOP_UP_FAILED):
                return
            if problem.kind is not PROCESSOR_UNAVAILABLE:
                raise
            world.clock.at += 5 * SECOND
            await top_up.work(services)
        else:
            return
    raise AssertionError("the processor is still said to be unavailable")


def spends(usd: int, call: str = "call-1") -> Step:
    async def step(world: World, services: Services) -> None:
        amount, at = usd * 100 * NANOS_PER_CENT, world.clock.at
        if call not in world.notes:  # a client that got no response repeats the same call
            world.notes[call] = at
        at = world.notes[call]
        hold = Hold(account_id=ACCOUNT, hold_id=call, amount=amount, at=at, expires_at=at + DAY, owner="test")
        assert (await services.ledger.do(hold)).ok
        assert (await services.ledger.do(Settle(account_id=ACCOUNT, hold_id=call, amount=amount, at=at))).ok

    return step


def refunds(credit: int | None = None, *, allow_spent: bool = False) -> Step:
    async def step(world: World, services: Services) -> None:
        await refund.refund(
            services,
            ACCOUNT,
            top_up_id=paid(world)["top_up_id"],
            credit_cents=credit,
            request_key="refund-1",
            allow_spent=allow_spent,
        )

    return step


def never_again(first: Step) -> Step:
    """The caller gets no response and does not retry: the operation is either finished or never took place."""

    async def step(world: World, services: Services) -> None:
        if "asked" not in world.notes:
            world.notes["asked"] = True
            await first(world, services)

    return step


async def switches_auto_on(world: World, services: Services) -> None:
    await auto_top_up.set_rule(services, ACCOUNT, amount_cents=2000, threshold_cents=1000)


async def opens_checkout(world: World, services: Services) -> None:
    async def open_page() -> None:
        bought = await top_up.buy_at_checkout(
            services,
            ACCOUNT,
            credit_cents=5000,
            success_url="https://app.example/done?session={CHECKOUT_SESSION_ID}",
            cancel_url="https://app.example/back",
            request_key="checkout-1",
        )
        world.notes["page"], world.notes["checkout"] = bought.action_url, bought.checkout_id

    await retry_until_accepted(world, services, open_page)


async def opens_setup(world: World, services: Services) -> None:
    page = await cards.open_setup(
        services, ACCOUNT, success_url="https://app.example/done", cancel_url="https://app.example/back"
    )
    world.notes["page"], world.notes["checkout"] = page.url, page.checkout_id


async def comes_back(world: World, services: Services) -> None:
    await processor_events.note_checkout(services, world.notes["checkout"])


# --- external steps: they happen once, whatever happens to our process ------------------------------------------------


def once(name: str, act: Any) -> Step:
    async def step(world: World, services: Services) -> None:
        if name not in world.notes:
            world.notes[name] = True
            act(world)

    return step


def card_becomes(behave: str) -> Step:
    def act(world: World) -> None:
        for method in methods(world):
            world.fake.steer(f"cards/{method}", behave=behave)

    return once(f"card becomes {behave}", act)


def methods(world: World) -> list[str]:
    (customer,) = world.fake.all("customers")
    return [method["id"] for method in world.fake.all("payment_methods", customer=customer["id"], type="card")]


def types_a_card(number: str = "4242424242424242") -> Step:
    def act(world: World) -> None:
        typed = {"card-number": number, "card-expiry": "12 / 34", "card-cvc": "123", "card-name": "Ann Example"}
        response = world.fake.http.post(world.notes["page"], data=typed)
        assert response.status_code == 303, response.text

    return once("typed a card", act)


def confirm(world: World) -> None:
    """Complete the authentication on the hosted page of the waiting invoice."""
    (invoice,) = [one for one in world.fake.all("invoices") if one["status"] == "open"]
    page = invoice["hosted_invoice_url"]
    method = methods(world)[0]
    response = world.fake.http.post(page, data={"saved": method})
    assert response.status_code == 303, response.text
    if response.headers["location"].endswith("/authenticate"):
        done = world.fake.http.post(response.headers["location"], data={"result": "complete"})
        assert done.status_code == 303, done.text


def dashboard_refund(cents: int) -> Step:
    def act(world: World) -> None:
        world.fake.post("/v1/refunds", payment_intent=paid(world)["intent"], amount=cents)

    return once("refunded at the dashboard", act)


def dispute_opens(*, inquiry: bool = False) -> Step:
    def act(world: World) -> None:
        invoice = paid(world)["payment_id"]
        world.notes["dispute"] = world.fake.steer("disputes", invoice=invoice, inquiry=inquiry)["id"]

    return once("dispute opens", act)


def dispute_ends(status: str) -> Step:
    return once(
        "dispute ends", lambda world: world.fake.steer(f"disputes/{world.notes['dispute']}/close", status=status)
    )


def paid(world: World) -> dict[str, str]:
    """The only paid purchase."""
    with world.reading() as connection:
        ((top_up_id, payment_id, intent),) = connection.execute(
            "SELECT t.top_up_id, t.payment_id, p.payment_intent_id FROM top_ups t "
            "JOIN payments p ON p.payment_id = t.payment_id WHERE t.state = 'paid'"
        ).fetchall()
    return {"top_up_id": top_up_id, "payment_id": payment_id, "intent": intent}


FLOWS = (
    Flow("a purchase", (buys(),)),
    Flow("a purchase whose buyer goes away", (never_again(buys()),), abandoned=True),
    Flow("a purchase with a fee", (buys(),), settings={"fee_percent": "7.7", "fee_fixed_cents": 31}),
    Flow("a purchase that is declined", (buys(),), card="pm_card_chargeCustomerFail"),
    Flow(
        "a purchase confirmed on the hosted page",
        (buys(), once("confirmed", confirm)),
        card="pm_card_authenticationRequired",
        patience=5 * MINUTE,
    ),
    Flow(
        "a purchase at the Checkout page", (opens_checkout, types_a_card(), comes_back), card=None, patience=5 * MINUTE
    ),
    Flow("saving a card", (opens_setup, types_a_card(), comes_back), card=None, patience=5 * MINUTE),
    Flow("auto top-up", (spends(15),), before=(buys(2000), switches_auto_on)),
    Flow(
        "auto top-up, declined for now, then paid",
        (spends(15), card_becomes("ok")),
        before=(buys(2000), switches_auto_on, card_becomes("insufficient_funds")),
        patience=90 * MINUTE,
        ending=3 * DAY,
    ),
    Flow(
        "auto top-up, declined permanently",
        (spends(15),),
        before=(buys(2000), switches_auto_on, card_becomes("lost_card")),
    ),
    Flow(
        "auto top-up, confirmed on the hosted page",
        (spends(15), once("confirmed", confirm)),
        before=(buys(2000), switches_auto_on, card_becomes("authentication_required")),
        patience=5 * MINUTE,
    ),
    Flow("a refund", (refunds(),), before=(buys(),)),
    Flow("a refund whose caller goes away", (never_again(refunds()),), before=(buys(),), abandoned=True),
    Flow(
        "a refund in part", (refunds(1234),), before=(buys(),), settings={"fee_percent": "7.7", "fee_fixed_cents": 31}
    ),
    Flow("a refund of what was spent", (refunds(allow_spent=True),), before=(buys(), spends(20))),
    Flow("a refund that waits", (refunds(2000),), before=(buys(),), card="pm_card_pendingRefund"),
    Flow("a refund that comes back", (refunds(2000),), before=(buys(),), card="pm_card_refundFail"),
    Flow("a refund at the dashboard", (dashboard_refund(2000),), before=(buys(),)),
    Flow("a dispute", (dispute_opens(),), before=(buys(), switches_auto_on, spends(20))),
    Flow(
        "a dispute that is won", (dispute_opens(), dispute_ends("won")), before=(buys(), switches_auto_on, spends(20))
    ),
    Flow("a dispute that is lost", (dispute_opens(), dispute_ends("lost")), before=(buys(), spends(20))),
    Flow("an inquiry", (dispute_opens(inquiry=True), dispute_ends("won")), before=(buys(), switches_auto_on)),
    Flow("a dispute after a refund", (dashboard_refund(2000), dispute_opens(), dispute_ends("won")), before=(buys(),)),
)


async def after(
    world: World, flow: Flow, start: Saved, webhooks: Webhooks, die_at: int | None
) -> tuple[Any, list[str]]:
    """The final state of a life, and its points; checks that the books agree with Stripe's."""
    world.load(start, webhooks, seed=die_at or 0)
    points = await live(world, flow, die_at)
    compare(world.settings, world.fake.http.get("/_fake/ledger"))
    return picture(world), points


def chosen(points: list[str], webhooks: Webhooks, flow: Flow) -> list[int]:
    """Numbers of the points at which to die: all of them, or a sample of those around commits and requests. The sample
    is evenly spaced, with a different offset for each flow and webhook mode, because flows share code, and one tries
    the points that another leaves out."""
    if LONG:
        return list(range(1, len(points) + 1))
    around = [number for number, where in enumerate(points, 1) if where.startswith(("before ", "after "))]
    wanted, parts = SAMPLE[webhooks], len(FLOWS) * len(WEBHOOK_MODES)
    part = FLOWS.index(flow) + len(FLOWS) * WEBHOOK_MODES.index(webhooks)
    places = [(place * parts + part) * len(around) // (wanted * parts) for place in range(wanted)]
    return sorted({around[place] for place in places}) if around else []


QUICK = ("a refund",)
"""Flows of `make check`; the others are slow."""


@pytest.mark.parametrize(
    "flow",
    [pytest.param(flow, id=flow.name, marks=() if flow.name in QUICK else pytest.mark.slow) for flow in FLOWS],
)
async def test_a_crash_anywhere_changes_nothing(flow: Flow, tmp_path: Path) -> None:
    with open_world(tmp_path, flow.card, **flow.settings) as world:
        start = await prepare(world, flow, tmp_path)
        expected, points = await after(world, flow, start, WEBHOOK_MODES[0], None)
        assert not expected["open"], f"left open: {expected['open']}"
        failures: list[str] = []
        tried = 0
        for webhooks in WEBHOOK_MODES:
            if webhooks != WEBHOOK_MODES[0]:
                found, points = await after(world, flow, start, webhooks, None)
                failures += [f"{webhooks}, without a crash: {text}" for text in differing(expected, found)]
            for number in chosen(points, webhooks, flow):
                tried += 1
                where = f"{webhooks}, dead at {number} ({points[number - 1]})"
                try:
                    found, _ = await after(world, flow, start, webhooks, number)
                except (AssertionError, Problem) as error:
                    failures.append(f"{where}: {error}")
                else:
                    same = ("open",) if flow.abandoned else tuple(expected)
                    failures += [f"{where}: {text}" for text in differing(expected, found, same)]
            print(f"{flow.name}, webhooks {webhooks}: {len(points)} points")
        assert not failures, f"{len(failures)} of {tried}:\n" + "\n".join(failures[:40])
