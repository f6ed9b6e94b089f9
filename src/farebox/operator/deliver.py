"""Delivery attempts: many at once, few per endpoint, each made by one process; and the times of retries."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import msgspec
import structlog

from farebox.calendar import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from farebox.messages import email, email_templates
from farebox.messages.send import post
from farebox.messages.sign import message_id, signed_headers
from farebox.metrics.families import DELIVERIES
from farebox.operator.endpoints import REMOVED, secret_of
from farebox.runtime.services import Services
from farebox.storage.deliveries import MAIL, Delivery, claim, due_deliveries, finish
from farebox.storage.notices import Notice, find_notice
from farebox.storage.sql import Connection
from farebox.storage.webhook_endpoints import find_endpoint
from farebox.vault import SecretUnreadable

RETRIES_MS = (
    5 * SECOND_MS,
    30 * SECOND_MS,
    2 * MINUTE_MS,
    15 * MINUTE_MS,
    HOUR_MS,
    6 * HOUR_MS,
    DAY_MS,
    DAY_MS,
)
"""Time from each failed attempt to the next. The last is made two days and seven hours after the first."""

LEASE_MS = 90 * SECOND_MS
"""Longer than any attempt can take; afterwards another process may try."""
WEBHOOKS_MAX = 32
"""Concurrent attempts."""
WEBHOOKS_MAX_EACH = 2
"""Concurrent attempts to one endpoint, so that a slow one does not block the others."""
EMAILS_MAX = 4
MESSAGES = "messages"
"""The periodic job that does this."""
CHECK_SECONDS = 0.5
"""Seconds between looks for further due deliveries while attempts are in progress."""

log = structlog.get_logger("farebox.messages")


@dataclass(frozen=True, slots=True)
class _Ended:
    """How an attempt ended: `error` is empty if the message was accepted."""

    error: str = ""
    for_good: bool = False


class Round:
    """The attempts of one round: it continues until nothing is due and nothing in progress."""

    def __init__(self, services: Services, fan_out: Callable[[Services], Awaitable[None]]) -> None:
        """`fan_out` writes the deliveries of new notices; it is called repeatedly, because attempts may take long."""
        self._services = services
        self._fan_out = fan_out
        self._under_way: dict[asyncio.Task[None], str] = {}
        self._made = 0

    async def run(self) -> int:
        """Returns how many attempts were made."""
        failures: list[BaseException] = []
        try:
            while True:
                self._services.jobs.report_progress(MESSAGES)
                await self._fan_out(self._services)
                await self._start_due()
                if not self._under_way:
                    break
                ended, _ = await asyncio.wait(
                    self._under_way, timeout=CHECK_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                for task in ended:
                    del self._under_way[task]
                    if (failure := task.exception()) is not None:
                        failures.append(failure)
        finally:
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)
        if failures:  # must not affect the others; the delivery is due again when its lease expires
            raise failures[0]
        return self._made

    async def _start_due(self) -> None:
        picked = await self._pick()
        if not picked:
            return
        until = self._services.clock.now_ms() + LEASE_MS

        def job(connection: Connection) -> list[Delivery]:
            claimed = (claim(connection, delivery, until) for delivery in picked)
            return [delivery for delivery in claimed if delivery is not None]

        for delivery in await self._services.database.write(job):
            self._made += 1
            task = asyncio.ensure_future(_attempt(self._services, delivery))
            self._under_way[task] = delivery.target

    async def _pick(self) -> list[Delivery]:
        """Deliveries that are due and within the limits: only a few per endpoint."""
        busy = Counter(self._under_way.values())
        mails = sum(count for target, count in busy.items() if target.startswith(MAIL))
        hooks = len(self._under_way) - mails
        full = [target for target, count in busy.items() if count >= WEBHOOKS_MAX_EACH]
        picked: list[Delivery] = []
        for delivery in await self._due(mail=False, without=full, limit=4 * WEBHOOKS_MAX):
            if hooks < WEBHOOKS_MAX and busy[delivery.target] < WEBHOOKS_MAX_EACH:
                busy[delivery.target] += 1
                hooks += 1
                picked.append(delivery)
        return picked + await self._due(mail=True, without=(), limit=EMAILS_MAX - mails)

    async def _due(self, *, mail: bool, without: Sequence[str], limit: int) -> list[Delivery]:
        services = self._services
        return await services.database.get(
            partial(due_deliveries, at=services.clock.now_ms(), mail=mail, without=without, limit=limit)
        )


async def _attempt(services: Services, delivery: Delivery) -> None:
    """Make one attempt at a claimed delivery, and record the outcome."""
    notice = await services.database.get(
        partial(find_notice, account_id=delivery.account_id, notice_id=delivery.notice_id)
    )
    assert notice is not None, "a delivery has its notice"
    if delivery.target.startswith(MAIL):
        ended = await _by_mail(services, notice, delivery.target.removeprefix(MAIL))
    else:
        ended = await _by_webhook(services, notice, delivery.target)
    now = services.clock.now_ms()
    next_at, delivered_at, result = None, None, "failed"
    if not ended.error:
        delivered_at, result = now, "delivered"
    elif not ended.for_good and delivery.attempts <= len(RETRIES_MS):
        next_at = now + RETRIES_MS[delivery.attempts - 1]
    else:
        result = "given_up"
        log.warning(
            "message given up",
            account=delivery.account_id,
            notice=delivery.notice_id,
            target=_shown(delivery.target),
            error=ended.error,
        )
    await services.database.write(
        partial(finish, claimed=delivery, next_at=next_at, delivered_at=delivered_at, error=ended.error or None)
    )
    services.metrics.count(DELIVERIES, "mail" if delivery.target.startswith(MAIL) else "webhook", result)


def _shown(target: str) -> str:
    """The target, redacted for the log: an e-mail address is personal data."""
    return "e-mail" if target.startswith(MAIL) else target


def payload(notice: Notice) -> bytes:
    """The webhook's body, the same for each attempt."""
    at = datetime.fromtimestamp(notice.created_at // 1000, UTC)
    return msgspec.json.encode(
        {
            "type": notice.kind,
            "id": message_id(notice.account_id, notice.notice_id),
            "timestamp": f"{at:%Y-%m-%dT%H:%M:%S}.{notice.created_at % 1000:03d}Z",
            "account_id": notice.account_id or None,
            "notice_id": notice.notice_id,
            "data": notice.content,
        }
    )


async def _by_webhook(services: Services, notice: Notice, endpoint_id: str) -> _Ended:
    endpoint = await services.database.get(partial(find_endpoint, endpoint_id=endpoint_id))
    if endpoint is None:
        return _Ended(REMOVED, for_good=True)
    try:
        secret = secret_of(services.vault, endpoint)
    except SecretUnreadable as error:
        return _Ended(str(error), for_good=True)
    body = payload(notice)
    identifier = message_id(notice.account_id, notice.notice_id)
    headers = signed_headers(secret, identifier, services.clock.now_ms(), body)
    sent = await post(endpoint.url, headers, body, private=services.settings.webhook_private == "allow")
    return _Ended(sent.error, for_good=sent.for_good)


async def _by_mail(services: Services, notice: Notice, address: str) -> _Ended:
    settings = services.settings
    if not settings.smtp_url:
        return _Ended("e-mail is switched off", for_good=True)
    message = email.Email(
        sender=settings.smtp_from,
        recipient=address,
        subject=email_templates.subject(notice.kind, notice.account_id),
        body=email_templates.body(notice.kind, notice.account_id, notice.content, settings.seller_name),
        identifier=message_id(notice.account_id, notice.notice_id),
        at=notice.created_at,
    )
    try:
        await email.send(email.relay_of(settings.smtp_url), message)
    except email.NotSent as error:
        return _Ended(str(error), for_good=error.for_good)
    return _Ended()
