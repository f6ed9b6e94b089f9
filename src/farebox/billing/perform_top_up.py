"""Carry out one claimed top-up: ask the processor, and write down what became of it.

Each step is committed before the next call, so that whoever takes over after a crash knows what may have been asked:
first the row; then the invoice, under the key `topup:{account}:{top_up}`; then the attempt; then the charge, under
`…:pay:{attempt}`. What is not known is asked for again, under the same key, and never anew.
"""

import contextlib
from dataclasses import replace
from functools import partial
from typing import Final

import msgspec
import structlog

from farebox.billing import decide_auto_top_up as auto
from farebox.billing import top_up_outcomes as outcomes
from farebox.billing.cards import customer_of, processor_of, refresh
from farebox.billing.perform_checkout import follow_checkout
from farebox.billing.record_payment import credit, write
from farebox.errors import PROCESSOR_UNAVAILABLE, Problem
from farebox.payments import metadata
from farebox.payments.declines import DAY, HOUR, MINUTE, classify
from farebox.payments.model import TopUp
from farebox.payments.processor import (
    MISSING,
    Declined,
    Processor,
    ProcessorInvoice,
    ProcessorRefused,
    ProcessorUnavailable,
)
from farebox.payments.purchase import Purchase
from farebox.runtime.services import Services
from farebox.storage.sql import Connection
from farebox.storage.top_up_attempts import latest_attempt
from farebox.storage.top_ups import StaleLease, claim, move, postpone, tie_payment

KEY_LIFE_MS: Final = 23 * HOUR
"""The processor may forget a key after 24 hours: from then on nothing is sent again, only looked for."""
LISTINGS_APART_MS: Final = 10 * MINUTE
"""Two listings so far apart must agree before a payment is believed not to exist."""
LISTING_SLACK_MS: Final = HOUR
"""How far the processor's clock may be from ours."""
PROCESSING_MAX_MS: Final = 7 * DAY
"""A payment of which nothing can be seen for so long is given up; its invoice is voided."""
PATIENCE_MS: Final = 15 * MINUTE
"""A purchase by hand whose card could not be asked within this is given up: its buyer has long gone away."""

log = structlog.get_logger("farebox.top_up")


async def carry_out(services: Services, account_id: str, top_up_id: str, *, early: bool = False) -> TopUp | None:
    """Claim a top-up and perform it; None where it is not due (unless `early`) or another worker has it."""
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
    return auto.take_up(connection, settings, claimed, at)


async def perform(services: Services, claimed: TopUp) -> TopUp:
    """Do what a claimed top-up needs next. Returns the row as it stands then, whoever wrote it."""
    try:
        if claimed.lease_owner is None:  # decided against, or put off
            if claimed.state == "canceled":
                log.info("auto top-up not charged", account=claimed.account_id, reason=claimed.error)
            return claimed
        top_up = await _advance(services, claimed)
        if top_up.state in ("failed", "canceled") and top_up.lease_owner is not None:
            top_up = await _void(services, top_up)
    except StaleLease:
        top_up = await services.database.get(partial(outcomes.current, top_up=claimed))
        log.info("top-up was taken over", account=claimed.account_id, top_up=claimed.top_up_id, state=top_up.state)
    if top_up.state != claimed.state:
        log.info("top-up", account=top_up.account_id, top_up=top_up.top_up_id, state=top_up.state, error=top_up.error)
    return top_up


async def _advance(services: Services, top_up: TopUp) -> TopUp:
    if top_up.state in ("failed", "canceled"):
        return top_up
    if top_up.kind == "checkout" and top_up.payment_id is None:
        return await follow_checkout(services, top_up)
    try:
        if top_up.payment_id is None:
            return await _open(services, top_up)
        return await _judge(services, top_up, await processor_of(services).fetch_invoice(top_up.payment_id))
    except ProcessorUnavailable:
        return await _unanswered(services, top_up)
    except ProcessorRefused as error:
        if top_up.payment_id is None or error.code == MISSING:
            return await _refused(services, top_up, error)
        return await _unanswered(services, top_up)  # only the look was refused: what was charged is not known


# --- the invoice ------------------------------------------------------------------------------------------------------


async def _open(services: Services, top_up: TopUp) -> TopUp:
    """Make the invoice, or find the one that an earlier try may have made, and tie it to the row."""
    processor = processor_of(services)
    try:
        customer_id = await customer_of(services, top_up.account_id)
    except Problem as problem:
        if problem.kind is PROCESSOR_UNAVAILABLE:
            raise ProcessorUnavailable(problem.message) from problem
        raise ProcessorRefused(problem.message) from problem
    found = None
    if top_up.lease_epoch > 1:  # somebody may have asked before
        found = await _listed(processor, top_up, customer_id)
        if found is None and _key_age(services, top_up) >= KEY_LIFE_MS:
            return await _unseen(services, top_up)
    if found is None or (found.state == "draft" and _key_age(services, top_up) < KEY_LIFE_MS):
        found = await processor.open_invoice(
            customer_id,
            msgspec.json.decode(top_up.lines, type=Purchase).lines(),
            card_id=top_up.card_id or "",
            metadata=metadata.of_top_up(top_up.account_id, top_up.top_up_id),
            key=_key(top_up),
        )
    tied = await write(services, _tie, top_up, found.invoice_id)
    if tied.payment_id is None:
        return tied
    try:
        return await _judge(services, tied, found)
    except ProcessorUnavailable:
        return await _unanswered(services, tied)
    except ProcessorRefused as error:
        return await _refused(services, tied, error)


def _tie(connection: Connection, top_up: TopUp, invoice_id: str, at: int) -> TopUp:
    if not tie_payment(connection, invoice_id, top_up.account_id, top_up.top_up_id):
        outcomes.find_taken(connection, top_up, invoice_id, at)
        return outcomes.refused(connection, top_up, at)
    return move(connection, top_up, "submitting", at, next_at=None, keep=True, payment_id=invoice_id, unseen_at=None)


async def _listed(processor: Processor, top_up: TopUp, customer_id: str) -> ProcessorInvoice | None:
    """The invoice that names this top-up, if the processor lists one."""
    named = (top_up.account_id, top_up.top_up_id)
    async for invoice in processor.invoices(since=top_up.created_at - LISTING_SLACK_MS, customer_id=customer_id):
        if metadata.named_top_up(invoice.metadata) == named:
            return invoice
    return None


async def _unseen(services: Services, top_up: TopUp) -> TopUp:
    """It was asked for more than a day ago, and a listing does not show it. The second time that is the truth."""
    return await write(services, _note_unseen, top_up)


def _note_unseen(connection: Connection, top_up: TopUp, at: int) -> TopUp:
    if top_up.unseen_at is None or at - top_up.unseen_at < LISTINGS_APART_MS:
        seen = top_up.unseen_at or at
        return postpone(connection, top_up, at, max(at + 1, seen + LISTINGS_APART_MS), unseen_at=seen)
    text = "The payment processor never got the request. Nothing was charged."
    return outcomes.close(connection, top_up, "failed", at, code=None, text=text)


# --- the truth about an invoice ---------------------------------------------------------------------------------------


async def _judge(services: Services, top_up: TopUp, invoice: ProcessorInvoice) -> TopUp:
    """Apply what the processor says now of the top-up's invoice, and go on from there."""
    if invoice.state == "paid":
        return await credit(services, top_up, invoice)
    if invoice.state in ("void", "uncollectible"):
        return await write(services, outcomes.closed_there, top_up, invoice.state)
    if invoice.payment_state in ("processing", "succeeded"):
        return await write(services, outcomes.processing, top_up)
    if top_up.state == "action_required":
        return await write(services, outcomes.still_to_confirm, top_up)
    if invoice.payment_state == "action_required" and top_up.attempt:
        return await write(services, outcomes.action_required, top_up, invoice)
    if top_up.state == "processing":
        return await _processed(services, top_up, invoice)
    if top_up.state == "declined":
        return await _again(services, top_up)
    return await _charge(services, top_up, invoice)


async def _processed(services: Services, top_up: TopUp, invoice: ProcessorInvoice) -> TopUp:
    """It was at the processor, and is not any more; or nothing can be seen of it, for a while."""
    if invoice.payment_state == "failed":
        return await _no(services, top_up, invoice)
    if services.clock.now_ms() - top_up.updated_at >= PROCESSING_MAX_MS:
        return await write(services, _never_charged, top_up)
    return await write(services, outcomes.processing, top_up)


async def _no(services: Services, top_up: TopUp, invoice: ProcessorInvoice) -> TopUp:
    code, advice = invoice.decline_code or "generic_decline", invoice.decline_advice
    return await write(services, outcomes.declined, top_up, code, advice)


async def _again(services: Services, top_up: TopUp) -> TopUp:
    """A declined one: wait on, or try the card again where that is due and allowed."""
    at = services.clock.now_ms()
    retry_at = top_up.retry_at or at
    if at < retry_at:
        next_at = min(outcomes.later(at, top_up.updated_at, outcomes.DECLINED_WAITS), retry_at)
        return await services.database.write(lambda connection: postpone(connection, top_up, at, next_at))
    decided = await services.database.write(
        lambda connection: auto.try_again(connection, services.settings, top_up, at)
    )
    return await _pay(services, decided) if decided.state == "submitting" else decided


# --- the charge -------------------------------------------------------------------------------------------------------


async def _charge(services: Services, top_up: TopUp, invoice: ProcessorInvoice) -> TopUp:
    """The invoice waits for its payment: begin the first attempt, or repeat the one whose answer is missing."""
    if invoice.due_cents != top_up.charge_cents:
        return await write(services, outcomes.not_our_price, top_up, invoice.due_cents)
    if top_up.kind == "auto":
        top_up = await write(services, auto.drop_unwanted, top_up, services.settings)
        if top_up.state == "canceled":
            return top_up
    attempt = await services.database.get(partial(latest_attempt, top_up=top_up))
    if attempt is None:
        return await _first_attempt(services, top_up)
    if services.clock.now_ms() - attempt.started_at < KEY_LIFE_MS:
        return await _pay(services, top_up)
    if invoice.payment_state == "failed":
        return await _no(services, top_up, invoice)
    return await write(services, _never_charged, top_up)


async def _first_attempt(services: Services, top_up: TopUp) -> TopUp:
    at = services.clock.now_ms()
    if top_up.kind == "manual" and at - top_up.created_at > PATIENCE_MS:
        return await write(services, _too_late, top_up)
    if _key_age(services, top_up) >= KEY_LIFE_MS:
        return await write(services, _never_charged, top_up)
    return await _pay(services, await write(services, auto.begin, top_up))


def _too_late(connection: Connection, top_up: TopUp, at: int) -> TopUp:
    text = "The payment processor did not answer in time. Nothing was charged."
    return outcomes.close(connection, top_up, "canceled", at, code=None, text=text)


def _never_charged(connection: Connection, top_up: TopUp, at: int) -> TopUp:
    """A day has passed without an answer, and the invoice is unpaid: voiding it makes sure that it stays so."""
    text = "The payment processor never charged the card."
    closed = outcomes.close(connection, top_up, "failed", at, code=None, text=text)
    outcomes.nothing_to_confirm(connection, closed, at)
    return closed


async def _pay(services: Services, top_up: TopUp) -> TopUp:
    """Ask the card, under the attempt's key: once done, the same question gets the same answer."""
    assert top_up.payment_id is not None
    try:
        invoice = await processor_of(services).pay_invoice(
            top_up.payment_id,
            card_id=top_up.card_id or "",
            on_session=top_up.kind == "manual",
            key=f"{_key(top_up)}:pay:{top_up.attempt}",
        )
    except Declined as no:
        if classify(no.code) != "authentication":
            return await write(services, outcomes.declined, top_up, no.code, no.advice)
        found = await _found_after(services, top_up)
        if found is None:
            return await _unanswered(services, top_up)
        if found.state == "open":
            return await write(services, outcomes.action_required, top_up, found)
        invoice = found
    except ProcessorUnavailable:
        return await _unanswered(services, top_up)
    except ProcessorRefused as error:
        found = await _found_after(services, top_up)
        if found is None:
            return await _unanswered(services, top_up)
        if found.state == "open" and found.payment_state not in ("processing", "succeeded", "action_required"):
            return await _refused(services, top_up, error)
        invoice = found
    return await _charged(services, top_up, invoice)


async def _charged(services: Services, top_up: TopUp, invoice: ProcessorInvoice) -> TopUp:
    """What the answer to a charge says."""
    if invoice.state == "open" and invoice.payment_state == "failed":
        return await _no(services, top_up, invoice)
    if invoice.state == "open" and invoice.payment_state in ("none", "canceled"):
        return await _unanswered(services, top_up)
    return await _judge(services, top_up, invoice)


async def _found_after(services: Services, top_up: TopUp) -> ProcessorInvoice | None:
    """The invoice after a charge was turned down; None where that cannot be known now."""
    assert top_up.payment_id is not None
    try:
        return await processor_of(services).fetch_invoice(top_up.payment_id)
    except (ProcessorUnavailable, ProcessorRefused):
        return None


# --- no answer, a refusal, the end ------------------------------------------------------------------------------------


async def _unanswered(services: Services, top_up: TopUp) -> TopUp:
    if top_up.state in ("submitting", "unknown"):
        return await write(services, outcomes.unknown, top_up)
    return await write(services, _ask_later, top_up)


def _ask_later(connection: Connection, top_up: TopUp, at: int) -> TopUp:
    return postpone(connection, top_up, at, outcomes.later(at, top_up.updated_at, outcomes.PROCESSING_WAITS))


async def _refused(services: Services, top_up: TopUp, error: ProcessorRefused) -> TopUp:
    log.error(
        "the processor refused", account=top_up.account_id, top_up=top_up.top_up_id, code=error.code, error=str(error)
    )
    closed = await write(services, outcomes.refused, top_up)
    with contextlib.suppress(Problem):  # a card or a customer may be gone there that nobody has told us of
        await refresh(services, top_up.account_id)
    return closed


async def _void(services: Services, top_up: TopUp) -> TopUp:
    """Make sure that the invoice of a top-up that ended badly is never paid; if it was meanwhile, credit it."""
    if top_up.payment_id is None:
        return await follow_checkout(services, top_up)
    try:
        invoice = await processor_of(services).void_invoice(top_up.payment_id)
    except (ProcessorUnavailable, ProcessorRefused) as error:
        if isinstance(error, ProcessorRefused) and error.code == MISSING:  # a draft that was deleted, say
            return await write(services, _voided, top_up)
        log.warning("an invoice is not known to be void", invoice=top_up.payment_id, error=str(error))
        return await write(services, _void_later, top_up)
    if invoice.state == "paid":
        return await credit(services, top_up, invoice)
    return await write(services, _voided if invoice.state in ("void", "uncollectible") else _void_later, top_up)


def _voided(connection: Connection, top_up: TopUp, at: int) -> TopUp:
    return move(connection, top_up, top_up.state, at, next_at=None)


def _void_later(connection: Connection, top_up: TopUp, at: int) -> TopUp:
    return postpone(connection, top_up, at, outcomes.later(at, top_up.updated_at, outcomes.VOID_WAITS))


def _key(top_up: TopUp) -> str:
    return f"topup:{top_up.account_id}:{top_up.top_up_id}"


def _key_age(services: Services, top_up: TopUp) -> int:
    """How long ago the processor may first have heard of the key."""
    return services.clock.now_ms() - (top_up.first_unknown_at or top_up.updated_at)
