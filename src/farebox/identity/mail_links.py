"""Signing in by a link that is sent to a member's e-mail address.

The person who asks learns nothing: the address is looked up, and the message sent, after the response.
"""

from functools import partial
from urllib.parse import quote

import structlog

from farebox.calendar import MINUTE_MS
from farebox.identity import mailing, sessions
from farebox.identity.sessions import LinkHolder
from farebox.messages.people_mail import sign_in_mail
from farebox.runtime.services import Services

MAIL_LINK_MS = 15 * MINUTE_MS

log = structlog.get_logger("farebox.identity")


def ask(services: Services, email: str, wanted: str, account_id: str = "") -> None:
    """Begin to send a link that leads to the page `wanted`, if the address is a member's; for this account, if they are
    a member of it. Raises nothing."""
    services.tasks.begin(("sign-in mail", email), lambda: _send(services, email, wanted, account_id))


async def _send(services: Services, email: str, wanted: str, rather: str) -> None:
    account_id = await services.database.get(partial(sessions.home_of, email=email, rather=rather))
    if account_id is None:
        log.info("no sign-in mail: no member")
        return
    holder = LinkHolder(account_id=account_id, email=email, method="email", lasts_ms=MAIL_LINK_MS)
    link = f"{await sessions.make_link(services, holder)}&next={quote(wanted, safe='')}"
    await mailing.deliver(services, sign_in_mail(mailing.post_to(services, email), link, MAIL_LINK_MS))
