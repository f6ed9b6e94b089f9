"""From the asynchronous side into one transaction: what was heard of a top-up is written down."""

from collections.abc import Callable
from typing import TypeVar

import structlog

from farebox.billing import top_up_outcomes as outcomes
from farebox.payments.model import TopUp
from farebox.payments.processor import ProcessorInvoice
from farebox.runtime.services import Services

T = TypeVar("T")

log = structlog.get_logger("farebox.top_up")


async def write(services: Services, job: Callable[..., T], top_up: TopUp, *arguments: object) -> T:
    """One transaction: `job(connection, top_up, *arguments, now)`."""
    at = services.clock.now_ms()
    return await services.database.write(lambda connection: job(connection, top_up, *arguments, at))


async def credit(services: Services, top_up: TopUp, invoice: ProcessorInvoice) -> TopUp:
    """A paid invoice becomes credit, whoever brought the news. Returns the row as it stands then."""
    row, _ = await credit_once(services, top_up, invoice)
    return row


async def credit_once(services: Services, top_up: TopUp, invoice: ProcessorInvoice) -> tuple[TopUp, bool]:
    """The same; and whether it was this news that credited it."""
    at = services.clock.now_ms()
    row, is_news = await services.database.write(
        lambda connection: outcomes.credit(connection, services.settings, top_up, invoice, at)
    )
    if row.state == "paid" and row.payment_id == invoice.invoice_id:
        services.waiters.wake(row.account_id)
    else:
        log.error("a payment was not credited", account=row.account_id, top_up=row.top_up_id, paid=invoice.invoice_id)
    return row, is_news
