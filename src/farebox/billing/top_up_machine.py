"""The life of a top-up: one table, and one loop that follows it.

A worker holds a lease on the top-up it processes. The loop sends one request to the processor (`top_up_steps`), looks
up in the table what the resulting event means in the row's state, applies that in one transaction
(`top_up_transitions`), and continues until the lease is given back. So each step is committed before the next request,
and no transaction spans a request; a worker that takes over after a crash finds in the row what may have been
requested, and repeats it under the same key. A worker that has lost its lease writes nothing.
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
from farebox.billing.top_up_steps import StepEvent, StepResult
from farebox.errors import Problem
from farebox.payments.model import TopUp
from farebox.runtime.services import Services
from farebox.settings import Settings
from farebox.storage.sql import Connection, DatabaseUnavailable
from farebox.storage.top_ups import StaleLease, claim, find

Step: TypeAlias = Callable[[Services, TopUp, StepResult | None], Awaitable[StepResult]]
"""Sends a request to the processor; receives the result of the previous step."""
Action: TypeAlias = Callable[[Connection, Settings, TopUp, StepResult, int], TopUp]
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
    # in these states       on this event      this is written    the row is then in               next step
    # An auto top-up request is decided as soon as a worker has claimed it.
    ("requested",           "claimed",         to.decide,         "submitting requested canceled", None),
    # The invoice is requested; its state is the next event.
    (_SENT,                 "opened",          to.link_invoice,   "submitting failed",             steps.read_opened),
    (_SENT,                 "not_listed",      to.await_listing,  "submitting unknown failed",     None),
    # The invoice is unpaid: the card is charged, for the first time or again.
    (_SENT,                 "unpaid",          to.prepare_charge, f"{_SENT} {_ENDED}",             steps.charge),
    (_SENT,                 "payment_failed",  to.prepare_charge, f"{_SENT} declined {_ENDED}",    steps.charge),
    ("declined",            "unpaid",          to.await_retry,    "declined submitting canceled",  steps.charge),
    ("declined",            "payment_failed",  to.await_retry,    "declined submitting canceled",  steps.charge),
    # The card was charged.
    (_SENT,                 "declined",        to.decline,        "declined failed",               None),
    (_SENT,                 "no_response",     to.await_response, "unknown",                       None),
    # The payment is in progress at the bank.
    (_OPEN,                 "processing",      to.await_bank,     "processing",                    None),
    ("processing",          "unpaid",          to.await_payment,  "processing failed",             None),
    ("processing",          "payment_failed",  to.decline,        "declined failed",               None),
    # The card's owner must confirm the payment.
    (_SENT,                 "to_confirm",      to.require_owner_action,      "action_required",               None),
    ("processing declined", "to_confirm",      to.require_owner_action,      "action_required",               None),
    ("action_required",     "to_confirm",      to.await_owner,    "action_required canceled",      None),
    ("action_required",     "unpaid",          to.await_owner,    "action_required canceled",      None),
    ("action_required",     "payment_failed",  to.await_owner,    "action_required canceled",      None),
    # The fetch itself failed.
    (_HELD,                 "no_response",     to.check_later,    _HELD,                           None),
    # The end. If a top-up ended without payment, its invoice is voided.
    (_OPEN,                 "paid",            to.credit,         f"paid {_ENDED}",                None),
    (_OPEN,                 "closed",          to.close_canceled, "canceled",                      None),
    (_OPEN,                 "refused",         to.refuse,         "failed",                        None),
    (_ENDED,                "paid",            to.credit,         f"paid {_ENDED}",                None),
    (_ENDED,                "voided",          to.finish,         _ENDED,                          None),
    (_ENDED,                "not_voided",      to.void_later,     _ENDED,                          None),
    # A purchase on the processor's hosted page: its invoice is made there, when the buyer pays.
    (_SENT,                 "page_opened",     to.show_page,      "action_required",               None),
    (_SENT,                 "page_not_opened", to.await_buyer,    "unknown",                       None),
    ("submitting",          "page_unknown",    to.await_buyer,    "unknown",                       None),
    ("unknown",             "page_unknown",    to.drop_page,      "canceled",                      None),
    (_PAGE,                 "page_open",       to.await_page,     "action_required canceled",      None),
    (_PAGE,                 "page_expired",    to.close_page,     "canceled",                      None),
)
# fmt: on
"""The life of a top-up, row by row. If a row has several resulting states, the action decides between them. A top-up
that ended without payment and still has its lease has an invoice, which is voided next.
"""

TRANSITIONS: Final[Mapping[tuple[str, str], Transition]] = {
    (state, event): Transition(action, frozenset(states.split()), then)
    for before, event, action, states, then in TABLE
    for state in before.split()
}
"""(state, event) → what follows."""


async def carry_out(services: Services, account_id: str, top_up_id: str, *, early: bool = False) -> TopUp | None:
    """Claim a top-up and do what it needs; None if it is not due (unless `early`) or another worker has it."""
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
    if services.processor is None:  # without a processor nothing can be charged
        settings = replace(settings, auto_topup="off")
    return _apply(connection, settings, claimed, StepResult(event="claimed"), at)


async def perform(services: Services, claimed: TopUp) -> TopUp:
    """Process a claimed top-up until its lease is given back. Returns the row as it is afterwards, even if another
    worker wrote it.
    """
    top_up, result = claimed, None
    step = _first_step(claimed)
    try:
        while step is not None:
            result = await step(services, top_up, result)
            then = TRANSITIONS[top_up.state, result.event].then
            top_up = await _commit(services, top_up, result)
            step = _next_step(top_up, then)
    except StaleLease:
        top_up = await services.database.get(partial(_refreshed, top_up=top_up))
        log.info("top-up was taken over", account=claimed.account_id, top_up=claimed.top_up_id, state=top_up.state)
    if claimed.lease_owner is None and claimed.state == "canceled":
        log.info("auto top-up not charged", account=claimed.account_id, reason=claimed.error)
    if top_up.state != claimed.state:
        log.info("top-up", account=top_up.account_id, top_up=top_up.top_up_id, state=top_up.state, error=top_up.error)
    return top_up


def _first_step(claimed: TopUp) -> Step | None:
    """Where to start, or to continue after another worker: with a fetch, if a request may have been sent."""
    if claimed.lease_owner is None:  # a request that was canceled or postponed
        return None
    if claimed.kind == "checkout" and claimed.payment_id is None:
        return steps.fetch_page
    if claimed.state in _ENDED.split():
        return steps.void
    return steps.open_invoice if claimed.payment_id is None else steps.fetch_invoice


def _next_step(top_up: TopUp, then: Step | None) -> Step | None:
    if top_up.lease_owner is None:
        return None
    return steps.void if top_up.state in _ENDED.split() else then


async def open_page(services: Services, claimed: TopUp, *, success_url: str, cancel_url: str) -> TopUp:
    """The first step of a purchase on the hosted page; only the caller's request has the URLs to return to.

    Raises Problem: PROCESSOR_UNAVAILABLE, PROCESSOR_REFUSED.
    """
    result = await steps.open_page(services, claimed, success_url=success_url, cancel_url=cancel_url)
    top_up = await _commit(services, claimed, result)
    if result.problem is not None:
        raise result.problem
    return top_up


async def _commit(services: Services, top_up: TopUp, result: StepResult) -> TopUp:
    """One transaction, and what follows its commit."""
    at = services.clock.now_ms()
    changed = await services.database.write(
        lambda connection: _apply(connection, services.settings, top_up, result, at)
    )
    if result.event == "paid" and result.invoice is not None:
        credit_payment.announce(services, changed, result.invoice)
    if result.refusal is not None:
        code, text = result.refusal.code, str(result.refusal)
        log.error("the processor refused", account=top_up.account_id, top_up=top_up.top_up_id, code=code, error=text)
        # A card or the customer may have been deleted at the processor. Whatever comes of this, the outcome is stored.
        with suppress(Problem, DatabaseUnavailable):
            await cards.refresh(services, top_up.account_id)
    return changed


def _apply(connection: Connection, settings: Settings, top_up: TopUp, result: StepResult, at: int) -> TopUp:
    transition = TRANSITIONS[top_up.state, result.event]
    changed = transition.action(connection, settings, top_up, result, at)
    ours = changed.lease_epoch == top_up.lease_epoch  # a payment is credited whichever worker has the lease
    assert not ours or changed.state in transition.states, f"{top_up.state}, {result.event} → {changed.state}"
    return changed


def _refreshed(connection: Connection, top_up: TopUp) -> TopUp:
    found = find(connection, top_up.account_id, top_up.top_up_id)
    return top_up if found is None else found
