"""How often we do what is expensive: ask the payment processor, open its pages, make PDFs, send messages.

The processor's own rate limit is shared by all accounts, so none may use it up, least of all an anonymous client.
Counted in this process; a restart starts from zero.
"""

from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from farebox.errors import RATE_LIMITED, Problem
from farebox.runtime.services import Services


@dataclass(frozen=True, slots=True)
class Budget:
    """This many times in this many seconds, for each account."""

    name: str
    limit: int
    seconds: int


ASKS = Budget("requests to the payment processor", 100, 60)
POLLS = Budget("status queries to the payment processor", 300, 60)
"""Separate from the requests: whoever polls too often does not keep the owner from buying."""
PAGES = Budget("pages of the payment processor", 100, 3600)
LINKS = Budget("links to the billing page", 100, 3600)
DOCUMENTS = Budget("documents", 30, 60)
"""The longest statement takes a thread for two seconds, and there are two threads."""
TESTS = Budget("manually sent messages", 20, 60)
ANONYMOUS = Budget("visits without a session", 60, 60)
"""Of all who come back from the processor's page without a session, together."""
STRANGER = Budget("visits without a session from your address", 20, 60)
"""Of one address, so that it does not use up what is for all. An IPv6 network of 64 bits counts as one address."""

EVERYBODY = ""
"""Whose budget it is where it is not an account's."""


def stranger(client: str) -> str:
    """Whose budget an address has."""
    try:
        return client if ip_address(client).version == 4 else str(ip_network(f"{client}/64", strict=False))
    except ValueError:  # it is not known
        return client


def spend(services: Services, budget: Budget, account_id: str) -> None:
    """Count one. Raises Problem (RATE_LIMITED)."""
    now = services.clock.now_ms()
    wait = services.rates.admit((budget.name, account_id), budget.limit, budget.seconds, sliding=True, now_ms=now)
    if wait is not None:
        message = f"Too many {budget.name}: {budget.limit} in {budget.seconds} seconds."
        raise Problem(RATE_LIMITED, message, retry_after=wait)
