"""A purchase on the processor's hosted page: open the page, then see what becomes of it. Works under a lease."""

from functools import partial
from typing import Final

import msgspec

from farebox.billing import top_up_outcomes as outcomes
from farebox.billing.cards import asking, for_customer, processor_of
from farebox.billing.record_payment import credit, write
from farebox.errors import Problem
from farebox.payments import metadata
from farebox.payments.declines import HOUR, MINUTE
from farebox.payments.model import TopUp
from farebox.payments.processor import Checkout, ProcessorRefused, ProcessorUnavailable
from farebox.payments.purchase import Purchase
from farebox.runtime.services import Services
from farebox.storage.sql import Connection
from farebox.storage.top_ups import move, postpone

PAGE_LIFE_MS: Final = 24 * HOUR
"""The processor closes a page after so long."""
PAGE_GRACE_MS: Final = HOUR
"""After that we close it ourselves."""
UNSEEN_MS: Final = 15 * MINUTE
"""How long a page whose address never reached us can still be asked for again; nobody else can know it."""
PAGE_WAITS: Final = (5_000, HOUR // 2)


async def open_page(services: Services, top_up: TopUp, *, success_url: str, cancel_url: str) -> TopUp:
    """Open the hosted page of a claimed row. Raises Problem: PROCESSOR_UNAVAILABLE, PROCESSOR_REFUSED."""

    async def ask(customer_id: str) -> Checkout:
        return await processor_of(services).open_purchase(
            customer_id,
            msgspec.json.decode(top_up.lines, type=Purchase).lines(),
            success_url=success_url,
            cancel_url=cancel_url,
            metadata=metadata.of_top_up(top_up.account_id, top_up.top_up_id),
            key=f"topup:{top_up.account_id}:{top_up.top_up_id}",
        )

    try:
        with asking("open a page to buy"):
            page = await for_customer(services, top_up.account_id, ask)
    except Problem:
        await write(services, _not_opened, top_up)
        raise
    return await write(services, partial(_opened, page=page), top_up)


def _opened(connection: Connection, top_up: TopUp, at: int, page: Checkout) -> TopUp:
    return move(
        connection,
        top_up,
        "action_required",
        at,
        next_at=outcomes.later(at, at, PAGE_WAITS),
        checkout_id=page.checkout_id,
        action_url=page.url,
        first_unknown_at=None,
    )


def _not_opened(connection: Connection, top_up: TopUp, at: int) -> TopUp:
    return move(connection, top_up, "unknown", at, next_at=at + UNSEEN_MS, first_unknown_at=at)


async def follow_checkout(services: Services, top_up: TopUp) -> TopUp:
    """Look what became of the page, and write it down; close it when its time is over."""
    if top_up.checkout_id is None:  # of a process that died over it: whoever asked may ask again
        return await write(services, _not_opened if top_up.state == "submitting" else _never_seen, top_up)
    processor = processor_of(services)
    try:
        page = await processor.fetch_checkout(top_up.checkout_id)
        age = services.clock.now_ms() - top_up.created_at
        if page.state == "open" and (top_up.state == "canceled" or age >= PAGE_LIFE_MS + PAGE_GRACE_MS):
            await processor.expire_checkout(top_up.checkout_id)
            page = await processor.fetch_checkout(top_up.checkout_id)
    except (ProcessorUnavailable, ProcessorRefused):
        return await write(services, _look_later, top_up)
    return await heard(services, top_up, page)


async def heard(services: Services, top_up: TopUp, page: Checkout) -> TopUp:
    """Apply what the processor says of the page; the row is claimed."""
    if page.invoice is not None and page.invoice.state == "paid":
        return await credit(services, top_up, page.invoice)
    if page.state == "expired":
        return await write(services, _expired, top_up)
    return await write(services, _look_later, top_up)


def _never_seen(connection: Connection, top_up: TopUp, at: int) -> TopUp:
    text = "The page to buy on was never opened."
    return move(connection, top_up, "canceled", at, next_at=None, error=text, first_unknown_at=None)


def _expired(connection: Connection, top_up: TopUp, at: int) -> TopUp:
    text = "The page to buy on has expired."
    return move(connection, top_up, "canceled", at, next_at=None, error=text, action_url=None)


def _look_later(connection: Connection, top_up: TopUp, at: int) -> TopUp:
    return postpone(connection, top_up, at, outcomes.later(at, top_up.created_at, PAGE_WAITS, share=8))
