"""Sends e-mail to people who use the pages, if the operator has set it up."""

from urllib.parse import urlsplit

import structlog

from farebox.messages.email import Email, NotSent, relay_of, send
from farebox.messages.people_mail import Post
from farebox.runtime.services import Services

_WAITS_SECONDS = (0, 10, 60)
"""Seconds to wait before each attempt to send a message: some relays refuse the first attempt."""

log = structlog.get_logger("farebox.identity")


def available(services: Services) -> bool:
    """Whether e-mail is set up."""
    return bool(services.settings.smtp_url)


def post_to(services: Services, recipient: str) -> Post:
    """The fields that all messages to people have in common."""
    return Post(
        sender=services.settings.smtp_from,
        recipient=recipient,
        seller=services.settings.seller_name,
        place=urlsplit(services.base_url).netloc,
        identifier=services.ids.log_id(),
        at=services.clock.now_ms(),
    )


async def deliver(services: Services, message: Email) -> None:
    """Send the message, in up to three attempts. Raises nothing; the log says why it was not sent."""
    for wait in _WAITS_SECONDS:
        await services.clock.sleep(wait)
        try:
            await send(relay_of(services.settings.smtp_url), message)
        except NotSent as error:
            log.warning("mail not sent", error=str(error), subject=message.subject)
            if error.for_good:
                return
        else:
            return
