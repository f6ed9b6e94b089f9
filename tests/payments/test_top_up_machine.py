"""The state table of a top-up: complete, consistent with the states, and without endless requests."""

import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from farebox.billing import cards, top_up, top_up_machine
from farebox.billing import top_up_steps as steps
from farebox.billing.top_up_machine import TABLE, TRANSITIONS, Step
from farebox.billing.top_up_steps import EVENTS, StepEvent
from farebox.errors import Problem
from farebox.payments.model import Card
from farebox.payments.processor import (
    MISSING,
    Checkout,
    Declined,
    ProcessorInvoice,
    ProcessorLine,
    ProcessorRefused,
    ProcessorUnavailable,
)
from farebox.payments.states import TOP_UP_STATES
from tests.payments.kit import DAY, Shop, open_shop

INVOICE = frozenset({"unpaid", "payment_failed", "processing", "to_confirm", "paid", "closed"})
"""The possible events for each state of an invoice."""
EVENTS_OF: Mapping[Any, frozenset[str]] = {
    steps.open_invoice: frozenset({"opened", "not_listed", "no_response", "refused"}),
    steps.read_opened: INVOICE,
    steps.fetch_invoice: INVOICE | {"no_response", "refused"},
    steps.charge: frozenset({"declined", "processing", "to_confirm", "paid", "closed", "no_response", "refused"}),
    steps.void: frozenset({"paid", "voided", "not_voided"}),
    steps.open_page: frozenset({"page_opened", "page_not_opened"}),
}
"""The possible events of each step."""
STATES_OF: Mapping[Any, str] = {
    steps.open_invoice: "submitting unknown",
    steps.read_opened: "submitting",
    steps.fetch_invoice: "submitting unknown processing action_required declined",
    steps.charge: "submitting unknown",
    steps.void: "failed canceled",
    steps.open_page: "submitting unknown",
}
"""The states in which each step is taken."""
PAGE = {
    "submitting": {"page_unknown"},
    "unknown": {"page_unknown"},
    "action_required": {"paid", "page_open", "page_expired"},
    "canceled": {"paid", "page_open", "page_expired"},
}
"""The possible events of fetching a page, by state."""


def test_the_table_has_exactly_the_possible_events() -> None:
    needed = {("requested", "claimed")}
    needed |= {
        (state, event) for step, states in STATES_OF.items() for state in states.split() for event in EVENTS_OF[step]
    }
    needed |= {(state, event) for state, events in PAGE.items() for event in events}
    assert set(TRANSITIONS) == needed
    assert {event for _, event in TRANSITIONS} == set(EVENTS) == set(get_args(StepEvent))


def test_the_table_has_no_duplicate_rows() -> None:
    assert sum(len(row[0].split()) for row in TABLE) == len(TRANSITIONS)


def test_the_table_follows_the_allowed_state_changes() -> None:
    for before, event, _, after, _ in TABLE:
        for state in before.split():
            left = set(after.split()) - set(before.split())
            assert left <= TOP_UP_STATES[state], f"{state}, {event}"


BY_OTHERS = {
    ("requested", "canceled"),  # the owner switches auto top-up off
    ("declined", "canceled"),  # …or saves another card
    ("action_required", "canceled"),
}
"""State changes that are not made by the worker, besides crediting."""


def test_every_allowed_state_change_is_in_the_table() -> None:
    gone = {(state, after) for (state, _), row in TRANSITIONS.items() for after in row.states} | BY_OTHERS
    gone |= {(state, "paid") for state in TOP_UP_STATES}
    for state, after in ((state, after) for state, ways in TOP_UP_STATES.items() for after in ways):
        assert (state, after) in gone, f"nothing leads from {state} to {after}"


def test_a_worker_takes_a_bounded_number_of_steps() -> None:
    def longest(step: Step | None, seen: tuple[Step, ...]) -> int:
        if step is None:
            return len(seen)
        assert step not in seen, "the same step would be repeated without end"
        rows = [TRANSITIONS[state, event] for state in STATES_OF[step].split() for event in EVENTS_OF[step]]
        following = {row.then for row in rows} | {None if step is steps.void else steps.void}
        return max(longest(then, (*seen, step)) for then in following)

    assert longest(steps.open_invoice, ()) == 4  # open, read, charge, void
    assert longest(steps.fetch_invoice, ()) == 3


# --- a processor with arbitrary responses -----------------------------------------------------------------------------

SEEDS = 12
CODES = ("insufficient_funds", "lost_card", "authentication_required", "new_code")


class RandomProcessor:
    """Gives random responses that the protocol allows. Paid, void and deleted invoices stay so, as at any processor."""

    def __init__(self, seed: int, chance: random.Random) -> None:
        self._seed = seed
        self._chance = chance
        self._keys: dict[str, str] = {}
        self.made: dict[str, ProcessorInvoice] = {}

    async def create_customer(self, account_id: str, *, name: str, email: str, key: str) -> str:
        self._fail()
        return f"cus_{self._seed}"

    async def cards(self, customer_id: str) -> list[Card]:
        self._fail()
        named = {"brand": "visa", "last4": "4242", "fingerprint": "f1"}
        return [Card(card_id="pm_1", exp_month=12, exp_year=2034, is_default=True, **named)]  # type: ignore[arg-type]

    async def open_invoice(
        self, customer_id: str, lines: Sequence[ProcessorLine], *, card_id: str, metadata: Mapping[str, str], key: str
    ) -> ProcessorInvoice:
        self._fail()
        if key not in self._keys:
            amount = sum(line.amount_cents for line in lines)
            name = self._keys[key] = f"in_{self._seed}_{len(self._keys)}"
            self.made[name] = ProcessorInvoice(
                invoice_id=name, state="open", payment_state="none", amount_cents=amount, paid_cents=0,
                due_cents=amount, customer_id=customer_id, metadata=metadata,
            )  # fmt: skip
            self._fail()
        return self._found(self._keys[key])

    async def invoices(self, *, since: int, customer_id: str | None = None) -> AsyncIterator[ProcessorInvoice]:
        self._fail()
        for invoice in self.made.values():
            yield invoice

    async def pay_invoice(self, invoice_id: str, *, card_id: str, on_session: bool, key: str) -> ProcessorInvoice:
        self._fail()
        self._go_on(invoice_id)
        self._fail()
        if self._found(invoice_id).state == "open" and self._chance.random() < 0.4:
            advice = self._chance.choice([None, "try_again_later", "do_not_try_again"])
            raise Declined(self._chance.choice(CODES), "", advice=advice)
        return self._found(invoice_id)

    async def fetch_invoice(self, invoice_id: str) -> ProcessorInvoice:
        self._fail()
        self._go_on(invoice_id)
        return self._found(invoice_id)

    async def void_invoice(self, invoice_id: str) -> ProcessorInvoice:
        self._fail()
        if self._found(invoice_id).state != "paid" and self._chance.random() < 0.7:
            self._change(invoice_id, state="void", payment_state="canceled")
        return self._found(invoice_id)

    async def open_purchase(
        self, customer_id: str, lines: Sequence[ProcessorLine], *, success_url: str, cancel_url: str,
        metadata: Mapping[str, str], key: str,
    ) -> Checkout:  # fmt: skip
        invoice = await self.open_invoice(customer_id, lines, card_id="", metadata=metadata, key=key)
        return Checkout(checkout_id=invoice.invoice_id, url="https://page", mode="payment", state="open")

    async def fetch_checkout(self, checkout_id: str) -> Checkout:
        self._fail()
        what = self._chance.random()
        if what < 0.1 and self.made[checkout_id].state == "open":
            self._change(checkout_id, state="paid", payment_state="succeeded")
        elif what < 0.2 and self.made[checkout_id].state == "open":
            self._change(checkout_id, state="void")
        invoice = self.made[checkout_id]
        state = {"paid": "complete", "void": "expired"}.get(invoice.state, "open")
        return Checkout(checkout_id=checkout_id, url=None, mode="payment", state=state, invoice=invoice)  # type: ignore[arg-type]

    async def expire_checkout(self, checkout_id: str) -> None:
        self._fail()
        if self.made[checkout_id].state == "open":
            self._change(checkout_id, state="void")

    def _fail(self) -> None:
        what = self._chance.random()
        if what < 0.12:
            raise ProcessorUnavailable("no answer")
        if what < 0.15:
            raise ProcessorRefused("refused", "authentication")

    def _found(self, invoice_id: str) -> ProcessorInvoice:
        if invoice_id not in self.made:
            raise ProcessorRefused("deleted", MISSING)
        return self.made[invoice_id]

    def _go_on(self, invoice_id: str) -> None:
        """An open invoice may have changed meanwhile."""
        what = self._chance.random()
        if self._found(invoice_id).state != "open":
            return
        if what < 0.15:
            self._change(invoice_id, state="paid", payment_state="succeeded")
        elif what < 0.20:
            self._change(invoice_id, state=self._chance.choice(["void", "uncollectible"]))
        elif what < 0.22:
            del self.made[invoice_id]
        else:
            states = ["none", "processing", "action_required", "failed", "succeeded", "canceled"]
            self._change(invoice_id, payment_state=self._chance.choice(states), decline_code=self._chance.choice(CODES))

    def _change(self, invoice_id: str, **changes: Any) -> None:
        invoice = msgspec.structs.replace(self.made[invoice_id], **changes)
        paid = invoice.amount_cents if invoice.state == "paid" else 0
        self.made[invoice_id] = msgspec.structs.replace(invoice, paid_cents=paid)


async def test_with_any_responses_a_purchase_ends_and_is_credited_iff_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Purchases of all kinds at a processor with arbitrary responses; the state machine handles every response."""
    heard = set()
    apply = top_up_machine._apply

    def noted(connection: Any, settings: Any, row: Any, what: Any, at: int) -> Any:
        heard.add((row.state, what.event))
        return apply(connection, settings, row, what, at)

    monkeypatch.setattr(top_up_machine, "_apply", noted)
    async with open_shop(tmp_path) as shop:
        for seed in range(SEEDS):
            await shop.open_account(card=None)
            random_processor = RandomProcessor(seed, random.Random(seed))
            object.__setattr__(shop.services, "processor", random_processor)
            await at_last(partial(cards.customer_of, shop.services, shop.account))
            await at_last(partial(cards.refresh, shop.services, shop.account))
            for round_ in range(3):
                await shop.set_rule()
                await shop.grant(600)
                await shop.spend(400)
                for ask in (buy, open_page):
                    with contextlib.suppress(Problem):
                        await ask(shop, f"{seed}-{round_}")
                await shop.let_pass(10 * DAY)
            ended = shop.top_ups()
            assert all(row.lease_owner is None and row.next_at is None for row in ended), seed
            credited = {row.payment_id for row in ended if row.state == "paid"}
            assert credited == {name for name, one in random_processor.made.items() if one.state == "paid"}, seed
            assert shop.findings() == []
    assert len(heard) > len(TRANSITIONS) // 2, "the processor is not random enough"


async def at_last(ask: Callable[[], Awaitable[object]]) -> None:
    """Retry until there is a response."""
    for _ in range(100):
        with contextlib.suppress(Problem):
            await ask()
            return
    raise AssertionError("never an answer")


async def buy(shop: Shop, key: str) -> None:
    await shop.buy(1_000, request_key=key)


async def open_page(shop: Shop, key: str) -> None:
    await top_up.buy_at_checkout(
        shop.services,
        shop.account,
        credit_cents=2_000,
        success_url="https://a.example",
        cancel_url="https://b.example",
        request_key=f"page-{key}",
    )
