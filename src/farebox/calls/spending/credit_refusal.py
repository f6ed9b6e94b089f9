"""Why the ledger did not admit a hold, as an error for the caller."""

from farebox.calls.spending import spending_limit
from farebox.errors import ACCESS_DENIED, CREDIT_HELD, NO_CREDIT, TOP_UP_UNDER_WAY, Problem, Shortage
from farebox.ledger.commands import Outcome, Verdict
from farebox.money import format_usd
from farebox.runtime.services import Services
from farebox.storage.top_ups import auto_under_way

HELD_RETRY_SECONDS = 1
"""Suggested wait if calls in flight hold what a call needs."""
TOP_UP_RETRY_SECONDS = 2


async def credit_refusal(
    services: Services,
    account_id: str,
    verdict: Verdict,
    asked: int,
    *,
    least: int | None = None,
    why: str = "",
    smaller: str = "",
) -> Problem:
    """The error for a refused hold of `asked` nano-dollars, of which `least` would be enough; `why` explains why it is
    so large, if that helps; `smaller` says how the caller can make it fit, if that is possible.

    NO_CREDIT: the account has too little. TOP_UP_UNDER_WAY: the account has too little, but more is being bought at the
    moment, perhaps because of this very hold. CREDIT_HELD: other holds have the money, or the room in the limit.
    SPEND_LIMITED. LIMIT_TOO_LOW.
    """
    if verdict.outcome is Outcome.UNKNOWN:
        return Problem(ACCESS_DENIED, "Authentication error")
    if verdict.outcome is Outcome.LIMITED:
        return await spending_limit.refusal(services, account_id, verdict, asked, least or asked)
    shortage = Shortage(asked, max(verdict.available, 0))
    if verdict.outcome is Outcome.HELD_ELSEWHERE:
        return Problem(
            CREDIT_HELD,
            "The account's credit, or what its spending limit leaves, is held by other calls in flight. Nothing was "
            "charged; try again in a moment.",
            retry_after=HELD_RETRY_SECONDS,
            shortage=shortage,
        )
    if services.processor is not None and await services.database.get(lambda c: auto_under_way(c, account_id)):
        return Problem(
            TOP_UP_UNDER_WAY,
            f"This can cost up to {format_usd(asked)} USD and the account has {format_usd(verdict.posted)} USD; more "
            "credit is being bought right now. Nothing was charged; try again in a moment.",
            retry_after=TOP_UP_RETRY_SECONDS,
            shortage=shortage,
        )
    return Problem(
        NO_CREDIT,
        f"Insufficient credits: this call can cost up to {format_usd(asked)} USD and the account has "
        f"{format_usd(verdict.posted)} USD.{why} Add credit to the account, "
        f"{smaller and smaller + ', '}or send your own provider key.",
        shortage=shortage,
    )
