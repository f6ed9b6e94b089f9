"""Notices and their recipients: which endpoints each goes to, its delivery attempts, and sending it again."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from farebox.calendar import DAY_MS, month_begins, utc
from farebox.errors import NOT_FOUND, Problem
from farebox.messages import email_templates
from farebox.model import Operator
from farebox.operator.deliver import Round
from farebox.runtime.services import Services
from farebox.settings import Settings
from farebox.storage.buckets import OPERATOR
from farebox.storage.deliveries import (
    MAIL,
    Delivery,
    add_delivery,
    deliver_again,
    deliveries_of,
    given_up,
    retry,
)
from farebox.storage.documents import read_customer
from farebox.storage.notices import (
    ExpiringCard,
    Notice,
    add_notice,
    claim_delivery,
    expiring_cards,
    find_notice,
    list_notices,
    new_notices,
)
from farebox.storage.operator_actions import record_action
from farebox.storage.sql import Connection
from farebox.storage.webhook_endpoints import endpoints_of

FAN_OUT_MAX = 50
AGAIN_AT_ONCE = 500
"""Deliveries that one transaction makes due again, because all other jobs wait for it."""
WARN_AT_ONCE = 500
"""Cards that one transaction reports, for the same reason."""
WARN_DAYS = (7, 30)
"""A card that expires within this many days is reported, once for each figure."""

# Recipients of a notice ------------------------------------------------------------------------------------


def fan_out(connection: Connection, settings: Settings, at: int, notices: Sequence[Notice]) -> None:
    """Write the deliveries of new notices, except those that another process has claimed since they were read."""
    for notice in notices:
        if claim_delivery(connection, notice):
            for target in _targets(connection, settings, notice):
                add_delivery(connection, notice.bucket, notice.account_id, notice.notice_id, target, at)


def _targets(connection: Connection, settings: Settings, notice: Notice) -> list[str]:
    """Endpoints of the account and of the operator that want the kind; e-mail to the owner and to the seller. The
    operator's own notices go to no account.
    """
    own = notice.account_id == OPERATOR
    endpoints = [] if own else endpoints_of(connection, notice.account_id)
    endpoints += endpoints_of(connection, None)
    targets = [endpoint.endpoint_id for endpoint in endpoints if endpoint.wants(notice.kind)]
    if settings.smtp_url:
        addresses = [] if own else [read_customer(connection, notice.account_id).email]
        if notice.kind in email_templates.OPERATOR_KINDS:
            addresses.append(settings.seller_email)
        targets += dict.fromkeys(f"{MAIL}{address}" for address in addresses if address)
    return targets


async def work(services: Services) -> int:
    """Write the deliveries of new notices and make every attempt that is due; returns how many were made.

    It continues until nothing is due and nothing in progress. Any number of processes may do this at once.
    """
    return await Round(services, _fan_out_all).run()


async def _fan_out_all(services: Services) -> None:
    while notices := await services.database.get(partial(new_notices, limit=FAN_OUT_MAX)):
        job = partial(fan_out, settings=services.settings, at=services.clock.now_ms(), notices=notices)
        await services.database.write(job)


# Replays ----------------------------------------------------------------------------------------------------------


def replay_notice(
    connection: Connection, settings: Settings, account_id: str, notice_id: str, at: int, *, by: Operator
) -> int | None:
    """Deliver the notice again, to all current recipients; None: there is no such notice.

    It keeps its `webhook-id`. Returns the number of recipients.
    """
    notice = find_notice(connection, account_id, notice_id)
    if notice is None:
        return None
    claim_delivery(connection, notice)
    count = _send_again(connection, notice, _targets(connection, settings, notice), at)
    after = {"deliveries": count}
    record_action(connection, by, "message.resend", at, account_id=account_id, subject=notice_id, after=after)
    return count


def _send_again(connection: Connection, notice: Notice, targets: Sequence[str], at: int) -> int:
    for target in targets:
        add_delivery(connection, notice.bucket, notice.account_id, notice.notice_id, target, at)
        deliver_again(connection, notice.bucket, notice.account_id, notice.notice_id, target, at)
    return len(targets)


def some_given_up(connection: Connection, account_id: str | None = None) -> list[Delivery]:
    """Deliveries that were given up, of one account or of all that are available, at most AGAIN_AT_ONCE. Call it
    outside a transaction."""
    return given_up(connection, account_id, AGAIN_AT_ONCE)


def replay_given_up(
    connection: Connection, items: Sequence[Delivery], at: int, account_id: str | None = None, *, by: Operator
) -> int:
    """Retry these deliveries that were given up; returns how many. Those that have been retried since they were read
    are left out."""
    count = sum(retry(connection, item, at) for item in items)
    if count:
        after = {"deliveries": count}
        record_action(
            connection, by, "message.resend", at, account_id=account_id or "", subject="given up", after=after
        )
    return count


async def replay(services: Services, notice_id: str, *, account_id: str) -> int:
    """Deliver a notice again to those of the account's own endpoints that want it; returns how many.

    Not by e-mail, because an owner could otherwise flood any address. Raises Problem (NOT_FOUND).
    """
    at = services.clock.now_ms()

    def job(connection: Connection) -> int:
        notice = find_notice(connection, account_id, notice_id)
        if notice is None:
            raise Problem(NOT_FOUND, "There is no such message")
        subscribed = [item.endpoint_id for item in endpoints_of(connection, account_id) if item.wants(notice.kind)]
        return _send_again(connection, notice, subscribed, at)

    return await services.database.write(job)


@dataclass(frozen=True, slots=True)
class NoticeHistory:
    """A notice with its deliveries."""

    notice: Notice
    deliveries: list[Delivery]


async def history(services: Services, account_id: str, offset: int, limit: int) -> tuple[list[NoticeHistory], int]:
    """The account's notices, newest first, and how many there are in all; without deliveries to the operator's own
    endpoints.
    """
    seller = f"{MAIL}{services.settings.seller_email}"

    def read(connection: Connection) -> tuple[list[NoticeHistory], int]:
        own = {item.endpoint_id for item in endpoints_of(connection, account_id)}
        notices, total = list_notices(connection, account_id, offset, limit)
        shown = []
        for history_entry in (with_deliveries(connection, notice) for notice in notices):
            theirs = [
                item
                for item in history_entry.deliveries
                if item.target in own or (item.target.startswith(MAIL) and item.target != seller)
            ]
            shown.append(NoticeHistory(history_entry.notice, theirs))
        return shown, total

    return await services.database.scan(read)


def with_deliveries(connection: Connection, notice: Notice) -> NoticeHistory:
    """The notice with all its deliveries."""
    return NoticeHistory(notice, deliveries_of(connection, notice.bucket, notice.account_id, notice.notice_id))


# Once a day -------------------------------------------------------------------------------------------------------


async def daily(services: Services) -> None:
    """Notify the owners of default cards that expire within thirty, and within seven days; each once."""
    now = services.clock.now_ms()
    today = utc(now)
    cards = await services.database.scan(partial(expiring_cards, year=today.year, month=today.month))
    due = [(card, days) for card in cards if (days := _warning(card, now)) is not None]
    for first in range(0, len(due), WARN_AT_ONCE):
        await services.database.write(partial(_warn, due=due[first : first + WARN_AT_ONCE], at=now))


def _warning(card: ExpiringCard, now: int) -> int | None:
    """The smallest of WARN_DAYS within which the card expires. A card is valid to the end of its month."""
    left = month_begins(card.exp_year, card.exp_month + 1) - now
    return next((days for days in WARN_DAYS if 0 < left <= days * DAY_MS), None)


def _warn(connection: Connection, due: Sequence[tuple[ExpiringCard, int]], at: int) -> None:
    for card, days in due:
        month = f"{card.exp_year}-{card.exp_month:02d}"
        content = {
            "card_id": card.card_id,
            "brand": card.brand,
            "last4": card.last4,
            "expires": month,
            "within_days": days,
        }
        # The month is part of the ID: a card that was renewed under the same ID gets new notices when it expires again.
        notice_id = f"card_expiring:{card.card_id}:{month}:{days}"
        add_notice(connection, card.bucket, card.account_id, notice_id, "card_expiring", content, at)
