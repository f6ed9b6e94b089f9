"""Signing in by a link that is sent to a member's e-mail address.

Who asks learns nothing: whether the address is a member's is looked up, and the message sent, after the answer.
"""

from functools import partial
from urllib.parse import quote, urlsplit

import structlog

from farebox.calendar import MINUTE_MS
from farebox.messages.email import NotSent, relay_of, send
from farebox.messages.sign_in_mail import sign_in_mail
from farebox.people import sessions
from farebox.people.sessions import Whom
from farebox.runtime.services import Services

MAIL_LINK_MS = 15 * MINUTE_MS
_WAITS_SECONDS = (0, 10, 60)
"""Before each attempt to send the message: some relays refuse the first one."""

log = structlog.get_logger("farebox.people")


def available(services: Services) -> bool:
    """Whether e-mail is configured."""
    return bool(services.settings.smtp_url)


def ask(services: Services, email: str, wanted: str) -> None:
    """Begin to send a link that leads to the page `wanted`, if the address is a member's. Nothing is raised."""
    services.tasks.begin(("sign-in mail", email), lambda: _send(services, email, wanted))


async def _send(services: Services, email: str, wanted: str) -> None:
    account_id = await services.database.get(partial(sessions.home_of, email=email))
    if account_id is None:
        log.info("no sign-in mail: no member")
        return
    whom = Whom(account_id=account_id, email=email, way="email", lasts_ms=MAIL_LINK_MS)
    link = await sessions.make_link(services, whom)
    settings = services.settings
    message = sign_in_mail(
        sender=settings.smtp_from,
        recipient=email,
        seller=settings.seller_name,
        link=f"{link}&next={quote(wanted, safe='')}",
        place=urlsplit(services.base_url).netloc,
        lasts_ms=MAIL_LINK_MS,
        identifier=services.ids.log_id(),
        at=services.clock.now_ms(),
    )
    for wait in _WAITS_SECONDS:
        await services.clock.sleep(wait)
        try:
            await send(relay_of(settings.smtp_url), message)
        except NotSent as error:
            log.warning("sign-in mail not sent", error=str(error), account=account_id)
            if error.for_good:
                return
        else:
            return
