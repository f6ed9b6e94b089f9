"""Runs a payment flow without a crash, and with one crash at any point; and compares the results."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farebox.runtime.services import Services
from tests.payments.crash_injection import Crash
from tests.payments.world import DAY, HOUR, Saved, World, begin_life, living

Json = dict[str, Any]

Step = Callable[[World, Services], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Flow:
    """The events of an account, step by step. After a crash the step is repeated, as a client or Stripe would do."""

    name: str
    steps: tuple[Step, ...]
    card: str | None = "pm_card_visa"
    before: tuple[Step, ...] = ()
    """Earlier steps, run without a crash."""
    patience: int = 2 * HOUR
    """How much the clock advances between steps."""
    ending: int = 40 * DAY
    settings: dict[str, object] = field(default_factory=dict)
    abandoned: bool = False
    """Whether nobody repeats the step after a crash: the result may differ, but the books must agree and nothing may
    stay open."""


async def prepare(world: World, flow: Flow, folder: Path) -> Saved:
    """The world at the beginning of the flow."""
    async with living(world) as process:
        for step in flow.before:
            await step(world, process.services)
            await world.settle(process.services, world.clock.at + flow.patience)
    world.heard = {event["id"] for event in world.fake.all("events")}
    return world.save(folder / "template.db")


async def live(world: World, flow: Flow, die_at: int | None) -> list[str]:
    """Run the flow, die once at point `die_at`, restart, and continue; the points passed before."""
    step = 0
    points: list[str] = []
    for death in (die_at, None):
        process = await begin_life(world, death)
        try:
            while step <= len(flow.steps):
                await process.run(_step(world, process.services, flow, step))
                step += 1
            return points or list(process.points)
        except Crash:
            points = list(process.points)
        finally:
            await process.end()
    raise AssertionError("died twice")


async def _step(world: World, services: Services, flow: Flow, number: int) -> None:
    """Run one step and its consequences; the step after the last waits until nothing is left to do."""
    if number < len(flow.steps):
        until = world.notes.setdefault(f"end of step {number}", world.clock.at + flow.patience)
        await flow.steps[number](world, services)
        await world.settle(services, until)
    else:
        await world.settle(services, world.clock.at + flow.ending)


# --- the comparison ---------------------------------------------------------------------------------------------------


def picture(world: World) -> Json:
    """The state that a crash must not change: books, rows, documents, notices, and Stripe's side."""
    queries = {
        "balance": "SELECT posted, held, owed, top_up_below IS NULL FROM balances",
        "transfers": "SELECT kind, from_book, to_book, amount FROM transfers",
        "lots": "SELECT substr(lot_id, 1, instr(lot_id, ':')), book, amount, remaining, expires_at IS NULL FROM lots",
        "top_ups": "SELECT kind, state, credit_cents, fee_cents, tax_cents, decline_code, refunded_cents, "
        "disputed_cents, clawed_cents, payment_id IS NULL FROM top_ups",
        "attempts": "SELECT kind, amount_cents, outcome, decline_code FROM top_up_attempts",
        "rule": "SELECT state, reason, failures, sequence FROM top_up_rules",
        "refunds": "SELECT state, amount_cents, credit_cents, processor_id IS NULL FROM refunds",
        "disputes": "SELECT state, amount_cents, taken_cents, credit_cents FROM disputes",
        "documents": "SELECT kind, number, total_cents FROM documents",
        "notices": "SELECT kind FROM notices",
        "cards": "SELECT brand, last4, is_default FROM cards",
        "findings": "SELECT kind FROM findings",
    }
    with world.reading() as connection:
        seen: Json = {name: sorted(connection.execute(sql).fetchall(), key=str) for name, sql in queries.items()}
    seen["open"] = [what for what, _ in world.waiting()]
    stripes = world.fake.all("invoices")
    seen["stripe invoices"] = sorted((invoice["status"], invoice["total"]) for invoice in stripes)
    seen["stripe charges"] = sorted((charge["status"], charge["amount"]) for charge in world.fake.all("charges"))
    seen["stripe refunds"] = sorted((one["status"], one["amount"]) for one in world.fake.all("refunds"))
    return seen


def differing(expected: Json, found: Json, names: tuple[str, ...] = ()) -> list[str]:
    """The differences in the named parts, or in all."""
    return [
        f"{name}: {found[name]} instead of {expected[name]}"
        for name in names or expected
        if expected[name] != found[name]
    ]
