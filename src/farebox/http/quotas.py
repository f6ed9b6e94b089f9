"""Quotas for expensive operations: requests to the payment processor, its hosted pages, PDFs, messages.

The processor's own rate limit is shared by all accounts, so no account may exhaust it, least of all an anonymous
client. Counted in this process; a restart starts from zero.
"""

from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from farebox.calendar import seconds_until, span_text
from farebox.errors import RATE_LIMITED, Problem
from farebox.runtime.services import Services


@dataclass(frozen=True, slots=True)
class Quota:
    """A quota: the number of uses per number of seconds, for each account."""

    name: str
    limit: int
    seconds: int
    each_session: bool = False
    """Counted per session instead, so that one member does not use up another member's quota."""


PROCESSOR_REQUESTS = Quota("requests to the payment processor", 100, 60)
POLLS = Quota("status queries to the payment processor", 300, 60)
"""Separate from the requests, so that frequent polling does not prevent the owner from buying."""
PAGES = Quota("pages of the payment processor", 100, 3600)
LINKS = Quota("links to the billing page", 100, 3600)
DOCUMENTS = Quota("documents", 30, 60)
"""The longest statement takes a thread for two seconds, and there are two threads."""
CHANGES = Quota("changes of the configuration", 1200, 300)
"""Each change makes every process read the configuration again. The figure is that of Cloudflare's API."""
MODEL_LISTS = Quota("lists of models", 300, 60)
"""Each goes through all prices, on a thread."""
TEST_CALLS = Quota("test calls", 60, 60)
WHAT_IFS = Quota("what-ifs", 60, 3600)
DOMAIN_CHECKS = Quota("checks of custom domains", 60, 60)
"""Each check queries a name server."""
TESTS = Quota("manually sent messages", 20, 60)
PROOFS = Quota("attempts to prove identity", 20, 600, each_session=True)
SIGN_INS = Quota("attempts to sign in from your address", 60, 600)
"""Counted per client address, like those below."""
MAIL_REQUESTS = Quota("requests for sign-in links from your address", 20, 3600)
MAILS = Quota("sign-in links for this e-mail address", 5, 3600)
"""Counted per e-mail address, whether or not it is a member's, so that an inbox cannot be flooded."""
ANONYMOUS = Quota("visits without a session", 60, 60)
"""Shared by all visitors who return from the processor's page without a session."""
ANONYMOUS_CLIENT = Quota("visits without a session from your address", 20, 60)
"""Counted per client address, so that one address does not exhaust the shared quota. A 64-bit IPv6 network counts as
one address."""

ALL_ACCOUNTS = ""
"""The key of a quota that all accounts share."""


def anonymous_client(client: str) -> str:
    """The quota key of a client's address: an IPv4 address, or a 64-bit IPv6 network."""
    try:
        return client if ip_address(client).version == 4 else str(ip_network(f"{client}/64", strict=False))
    except ValueError:  # the address is unknown
        return client


def spend(services: Services, budget: Quota, account_id: str) -> None:
    """Count one use. Raises Problem (RATE_LIMITED)."""
    now = services.clock.now_ms()
    at = services.rates.admit((budget.name, account_id), budget.limit, budget.seconds, sliding=True, now_ms=now)
    if at is not None:
        wait = seconds_until(at, now)
        most = f"at most {budget.limit:,} in {span_text(budget.seconds)}"
        message = f"Too many {budget.name}: {most}. Try again in {span_text(wait)}."
        raise Problem(RATE_LIMITED, message, retry_after=wait, resets_at=at)
