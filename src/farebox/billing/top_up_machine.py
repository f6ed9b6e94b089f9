"""The life of a top-up: one table, and one loop that follows it.

Whoever works on a top-up has it under a lease. The loop asks one question of the processor (`top_up_steps`), finds in
the table what the event means in the row's state, carries that out in one transaction (`top_up_transitions`), and goes
on until the lease is given back. So each step is committed before the next question, and no transaction spans one;
whoever takes over after a crash finds in the row what may have been asked, and asks it again under the same key. A
worker whose lease was lost meanwhile writes nothing.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple, TypeAlias

import structlog

from farebox.billing import cards, credit_payment
from farebox.billing import top_up_steps as steps
from farebox.billing import top_up_transitions as to
from farebox.billing.top_up_steps import Heard, StepEvent
from farebox.errors import Problem
from farebox.payments.model import TopUp
from farebox.runtime.services import Services
from farebox.settings import Settings
from farebox.storage.sql import Connection
from farebox.storage.top_ups import StaleLease, claim, find

Step: TypeAlias = Callable[[Services, TopUp, Heard | None], Awaitable[Heard]]
"""Asks the processor; given the previous event."""
Action: TypeAlias = Callable[[Connection, Settings, TopUp, Heard, int], TopUp]
"""Records the event in one transaction, at the given time."""

log = structlog.get_logger("farebox.top_up")


class Transition(NamedTuple):
    """What an event does in a state."""

    action: Action
    states: frozenset[str]
    """The states that the row may be in afterwards. If there are several, the action decides."""
    then: Step | None
    """The next step, if the action keeps the lease and the top-up is still open."""


_SENT: Final = "submitting unknown"
_HELD: Final = "processing action_required declined"
_OPEN: Final = f"{_SENT} {_HELD}"
_ENDED: Final = "failed canceled"
_PAGE: Final = "action_required canceled"

# fmt: off
TABLE: Final[tuple[tuple[str, StepEvent, Action, str, Step | None], ...]] = (
    # in these states       when it is heard   this is written    it is in this state then          asked next
    # A request of auto top-up is decided as soon as a worker has it.
    ("requested",           "claimed",         to.decide,         "submitting requested canceled",  None),
    # The invoice is asked for; then it says how it stands.
    (_SENT,                 "opened",          to.tie,            "submitting failed",              steps.read_opened),
    (_SENT,                 "not_listed",      to.await_listing,  "submitting unknown failed",      None),
    # It waits for its payment: the card is asked, for the first time or again.
    (_SENT,                 "unpaid",          to.prepare_charge, f"{_SENT} {_ENDED}",              steps.charge),
    (_SENT,                 "payment_failed",  to.prepare_charge, f"{_SENT} declined {_ENDED}",     steps.charge),
    ("declined",            "unpaid",          to.await_retry,    "declined submitting canceled",   steps.charge),
    ("declined",            "payment_failed",  to.await_retry,    "declined submitting canceled",   steps.charge),
    # The card was asked.
    (_SENT,                 "declined",        to.decline,        "declined failed",                None),
    (_SENT,                 "no_answer",       to.await_response,   "unknown",                        None),
    # It is the bank's turn.
    (_OPEN,                 "processing",      to.await_bank,     "processing",                     None),
    ("processing",          "unpaid",          to.await_payment,  "processing failed",              None),
    ("processing",          "payment_failed",  to.decline,        "declined failed",                None),
    # It is the turn of the card's owner.
    (_SENT,                 "to_confirm",      to.ask_owner,      "action_required",                None),
    ("processing declined", "to_confirm",      to.ask_owner,      "action_required",                None),
    ("action_required",     "to_confirm",      to.await_owner,    "action_required canceled",       None),
    ("action_required",     "unpaid",          to.await_owner,    "action_required canceled",       None),
    ("action_required",     "payment_failed",  to.await_owner,    "action_required canceled",       None),
    # The look itself failed.
    (_HELD,                 "no_answer",       to.look_later,     _HELD,                            None),
    # The end. The invoice of what ended without payment is voided.
    (_OPEN,                 "paid",            to.credit,         f"paid {_ENDED}",                 None),
    (_OPEN,                 "closed",          to.close_as_there, "canceled",                       None),
    (_OPEN,                 "refused",         to.refuse,         "failed",                         None),
    (_ENDED,                "paid",            to.credit,         f"paid {_ENDED}",                 None),
    (_ENDED,                "voided",          to.finish,         _ENDED,                           None),
    (_ENDED,                "not_voided",      to.void_later,     _ENDED,                           None),
    # A purchase on the processor's hosted page: its invoice is made there, when the buyer pays.
    (_SENT,                 "page_opened",     to.show_page,      "action_required",                None),
    (_SENT,                 "page_not_opened", to.await_buyer,    "unknown",                        None),
    ("submitting",          "page_unknown",    to.await_buyer,    "unknown",                        None),
    ("unknown",             "page_unknown",    to.drop_page,      "canceled",                       None),
    (_PAGE,                 "page_open",       to.await_page,     "action_required canceled",       None),
    (_PAGE,                 "page_expired",    to.close_page,     "canceled",                       None),
)
# fmt: on
"""The whole life, row by row. Where a row names several states, the action decides between them. Whatever ended without
payment and still has its lease has an invoice: it is voided next."""

TRANSITIONS: Final[Mapping[tuple[str, str], Transition]] = {
    (state, event): Transition(action, frozenset(states.split()), then)
    for before, event, action, states, then in TABLE
    for state in before.split()
}
"""(state, event) → what follows."""


async def carry_out(services: Services, account_id: str, top_up_id: str, *, early: bool = False) -> TopUp | None:
    """Claim a top-up and do what it needs; None where it is not due (unless `early`) or another worker has it."""
    claimed = await services.database.write(
        partial(_claim, services=services, account_id=account_id, top_up_id=top_up_id, early=early)
    )
    return None if claimed is None else await perform(services, claimed)


def _claim(connection: Connection, services: Services, account_id: str, top_up_id: str, early: bool) -> TopUp | None:
    """Claim it; a request of auto top-up is decided in the same transaction."""
    at = services.clock.now_ms()
    claimed = claim(connection, account_id, top_up_id, owner=services.instance, at=at, early=early)
    if claimed is None or claimed.state != "requested":
        return claimed
    settings = services.settings
    if services.processor is None:  # nobody could charge it
        settings = replace(settings, auto_topup="off")
    return _apply(connection, settings, claimed, Heard(event="claimed"), at)


async def perform(services: Services, claimed: TopUp) -> TopUp:
    """Do what a claimed top-up needs, until its lease is given back. Returns the row afterwards, whoever wrote it."""
    top_up, heard = claimed, None
    step = _first_step(claimed)
    try:
        while step is not None:
            heard = await step(services, top_up, heard)
            then = TRANSITIONS[top_up.state, heard.event].then
            top_up = await _commit(services, top_up, heard)
            step = _next_step(top_up, then)
    except StaleLease:
        top_up = await services.database.get(partial(_as_it_stands, top_up=top_up))
        log.info("top-up was taken over", account=claimed.account_id, top_up=claimed.top_up_id, state=top_up.state)
    if claimed.lease_owner is None and claimed.state == "canceled":
        log.info("auto top-up not charged", account=claimed.account_id, reason=claimed.error)
    if top_up.state != claimed.state:
        log.info("top-up", account=top_up.account_id, top_up=top_up.top_up_id, state=top_up.state, error=top_up.error)
    return top_up


def _first_step(claimed: TopUp) -> Step | None:
    """Where to start, or to continue after another worker: with a fetch, if a request may have been sent."""
    if claimed.lease_owner is None:  # a request that was decided against, or put off
        return None
    if claimed.kind == "checkout" and claimed.payment_id is None:
        return steps.look_at_page
    if claimed.state in _ENDED.split():
        return steps.void
    return steps.open_invoice if claimed.payment_id is None else steps.look


def _next_step(top_up: TopUp, then: Step | None) -> Step | None:
    if top_up.lease_owner is None:
        return None
    return steps.void if top_up.state in _ENDED.split() else then


async def open_page(services: Services, claimed: TopUp, *, success_url: str, cancel_url: str) -> TopUp:
    """The first step of a purchase on the hosted page; only the request that begins it knows its addresses.

    Raises Problem: PROCESSOR_UNAVAILABLE, PROCESSOR_REFUSED.
    """
    heard = await steps.open_page(services, claimed, success_url=success_url, cancel_url=cancel_url)
    top_up = await _commit(services, claimed, heard)
    if heard.problem is not None:
        raise heard.problem
    return top_up


async def _commit(services: Services, top_up: TopUp, heard: Heard) -> TopUp:
    """One transaction, and what follows its commit."""
    at = services.clock.now_ms()
    changed = await services.database.write(lambda connection: _apply(connection, services.settings, top_up, heard, at))
    if heard.event == "paid" and heard.invoice is not None:
        credit_payment.announce(services, changed, heard.invoice)
    if heard.refusal is not None:
        code, text = heard.refusal.code, str(heard.refusal)
        log.error("the processor refused", account=top_up.account_id, top_up=top_up.top_up_id, code=code, error=text)
        with suppress(Problem):  # a card or a customer may be gone there that nobody has told us of
            await cards.refresh(services, top_up.account_id)
    return changed


def _apply(connection: Connection, settings: Settings, top_up: TopUp, heard: Heard, at: int) -> TopUp:
    transition = TRANSITIONS[top_up.state, heard.event]
    changed = transition.action(connection, settings, top_up, heard, at)
    ours = changed.lease_epoch == top_up.lease_epoch  # a payment is credited whoever has the row, and wherever it is
    assert not ours or changed.state in transition.states, f"{top_up.state}, {heard.event} → {changed.state}"
    return changed


def _as_it_stands(connection: Connection, top_up: TopUp) -> TopUp:
    found = find(connection, top_up.account_id, top_up.top_up_id)
    return top_up if found is None else found
