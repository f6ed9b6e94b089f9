"""Machine-readable details of a refusal in addition to its code and message: whose limit it is, what to do, where, and
when."""

from typing import Any, Final, NamedTuple
from urllib.parse import quote

from farebox.calendar import SECOND_MS, utc
from farebox.errors import (
    ACCESS_DENIED,
    ACCOUNT_CALLS_FULL,
    CARD_DECLINED,
    CONFIG_BY_TOKEN,
    CREDIT_HELD,
    GATEWAY_NOT_ALLOWED,
    GIVEN_UP,
    KEY_RATE_LIMITED,
    KEY_UNKNOWN,
    LIMIT_TOO_LOW,
    MODEL_NOT_ALLOWED,
    NO_CREDIT,
    OWN_KEY_REQUIRED,
    POLICY_DENIED,
    PROVIDER_UNAVAILABLE,
    RATE_LIMITED,
    ROUTE_ENDED,
    SPEND_LIMITED,
    TOKEN_RATE_LIMITED,
    TOKEN_REJECTED,
    TOP_UP_FAILED,
    TOP_UP_UNDER_WAY,
    Problem,
)
from farebox.money import ceil_div, nanos_to_usd
from farebox.settings import Settings

_SOURCES: Final = {
    NO_CREDIT: "account",
    CREDIT_HELD: "account",
    TOP_UP_UNDER_WAY: "account",
    TOP_UP_FAILED: "account",
    CARD_DECLINED: "account",
    GIVEN_UP: "account",
    ACCOUNT_CALLS_FULL: "account",
    SPEND_LIMITED: "limit",
    LIMIT_TOO_LOW: "limit",
    RATE_LIMITED: "limit",
    TOKEN_REJECTED: "token",
    TOKEN_RATE_LIMITED: "token",
    MODEL_NOT_ALLOWED: "token",
    GATEWAY_NOT_ALLOWED: "token",
    ACCESS_DENIED: "token",
    CONFIG_BY_TOKEN: "token",
    POLICY_DENIED: "policy",
    ROUTE_ENDED: "route",
    PROVIDER_UNAVAILABLE: "provider",
    KEY_RATE_LIMITED: "provider",
    OWN_KEY_REQUIRED: "provider",
    KEY_UNKNOWN: "provider",
}
"""What prevents a call: the first thing that programs ask."""
_LIMITS: Final = "/ui/limits"
_PLACES: Final = {
    NO_CREDIT: "/billing",
    CREDIT_HELD: "/billing",
    TOP_UP_UNDER_WAY: "/billing",
    TOP_UP_FAILED: "/billing",
    CARD_DECLINED: "/billing",
    CONFIG_BY_TOKEN: "/billing",
    SPEND_LIMITED: "/billing",
    LIMIT_TOO_LOW: "/billing",
    POLICY_DENIED: _LIMITS,
    TOKEN_REJECTED: "/ui/tokens",
    TOKEN_RATE_LIMITED: "/ui/tokens",
    MODEL_NOT_ALLOWED: "/ui/tokens",
    GATEWAY_NOT_ALLOWED: "/ui/tokens",
    OWN_KEY_REQUIRED: "/ui/gateways",
    KEY_UNKNOWN: "/ui/gateways",
    KEY_RATE_LIMITED: "/ui/gateways",
    ROUTE_ENDED: "/ui/gateways",
}
"""The pages on which people can follow a remedy, or see the cause."""


def public_url(settings: Settings) -> str:
    """The URL at which people reach the pages; empty if the operator has not set it."""
    return settings.base_url if settings.public_url else ""


class Pages(NamedTuple):
    """The URLs of an account's pages."""

    public_url: str
    """Empty if the operator has set none: people cannot be sent to the pages then."""
    account_id: str

    def url(self, path: str) -> str:
        """The URL of a page of this account. It is not a secret: the page requires a sign-in."""
        return f"{self.public_url}{path}?account={quote(self.account_id, safe='')}"


def facts_of(problem: Problem, pages: Pages) -> dict[str, Any]:
    """What a program needs in order to decide what to do, for errors that have a source."""
    source, shortage = _SOURCES.get(problem.kind), problem.shortage
    if source is None:
        return {}
    facts: dict[str, Any] = {"source": source, "remedy": problem.kind.remedy}
    place = _PLACES.get(problem.kind)
    if shortage is not None and shortage.rule_id:
        facts |= {"source": "limit", "rule_id": shortage.rule_id}
        place = _LIMITS if shortage.on_page else None
    if place is not None and pages.public_url:
        facts["remedy_url"] = pages.url(place)
    if problem.retry_after is not None:
        facts["retry_after"] = problem.retry_after
    if problem.resets_at is not None:
        facts["resets_at"] = f"{utc(ceil_div(problem.resets_at, SECOND_MS) * SECOND_MS):%Y-%m-%dT%H:%M:%SZ}"
    if shortage is not None:
        if shortage.needed is not None:
            facts["needed_usd"] = nanos_to_usd(shortage.needed)
        facts["available_usd"] = nanos_to_usd(shortage.available)
    return facts
