"""Verifies the ownership of custom domains: their owners publish a TXT record, which is looked for until it appears,
and then once a day. A name stops working when its record has been gone for a week, or at once if another account's
record is there instead.
"""

import asyncio
from functools import partial
from typing import Final

import structlog

from farebox.dns_txt import NoAnswer, servers_of, txt_records
from farebox.runtime.services import Services
from farebox.storage.custom_domains import CustomDomain, Seen, displace, due_domains, find_active, judge

AT_ONCE: Final = 10
ROUND_MAX: Final = 100
"""Domains that are checked in one round."""

log = structlog.get_logger("farebox.domains")


def record_name(hostname: str) -> str:
    """The name of the TXT record."""
    return f"_farebox.{hostname}"


def record_text(token: str) -> str:
    """The content of the TXT record."""
    return f"farebox-domain={token}"


async def work(services: Services) -> None:
    """Check the domains that are due: one round."""
    due = await services.database.scan(partial(due_domains, at=services.clock.now_ms(), limit=ROUND_MAX))
    for start in range(0, len(due), AT_ONCE):
        await asyncio.gather(*(check(services, domain) for domain in due[start : start + AT_ONCE]))


async def check(services: Services, domain: CustomDomain) -> CustomDomain | None:
    """Look for the domain's record; returns the domain afterwards, or None if it was deleted meanwhile."""
    seen = await _seen(services, domain)
    judged = await _judged(services, domain, seen)
    if judged is not None and judged.status == "blocked":
        other = await services.database.get(partial(find_active, hostname=domain.hostname))
        if other is not None and await _seen(services, other) == "missing":
            at = services.clock.now_ms()
            await services.database.write(partial(displace, domain=other, at=at))
            judged = await _judged(services, domain, seen)
    if judged is not None and judged.status != domain.status:
        log.info("custom domain", hostname=domain.hostname, account_id=domain.account_id, status=judged.status)
        await services.configuration.notice_own_change()
    return judged


async def _judged(services: Services, domain: CustomDomain, seen: Seen) -> CustomDomain | None:
    at = services.clock.now_ms()
    return await services.database.write(partial(judge, looked_for=domain, seen=seen, at=at))


async def _seen(services: Services, domain: CustomDomain) -> Seen:
    try:
        texts = await txt_records(record_name(domain.hostname), servers_of(services.settings.dns_servers))
    except NoAnswer as error:
        log.info("custom domain not looked up", hostname=domain.hostname, why=str(error))
        return "unknown"
    return "found" if record_text(domain.token) in texts else "missing"
