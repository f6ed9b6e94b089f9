"""The refusal of a call by a rule of its gateway's spend limits, or a policy's limit, as an error for the caller."""

from functools import partial

from farebox.calendar import seconds_until, utc
from farebox.calls.model import Call
from farebox.calls.spending.credit_refusal import HELD_RETRY_SECONDS
from farebox.calls.spending.rules import rules_for
from farebox.errors import CREDIT_HELD, LIMIT_TOO_LOW, SPEND_LIMITED, Problem, Shortage
from farebox.ledger.budgets import room_at
from farebox.ledger.commands import Outcome, Verdict
from farebox.money import format_usd
from farebox.runtime.services import Services


async def spend_refusal(services: Services, call: Call, verdict: Verdict, asked: int, least: int) -> Problem:
    """The error for a call that a budget refused. It asks for `asked` nano-dollars, and `least` is what it needs with
    limited output: LIMIT_TOO_LOW if that is more than the whole limit."""
    assert verdict.budget is not None
    assert verdict.limit is not None
    rule = rules_for(call)[verdict.budget]
    left = max(0, verdict.limit - verdict.spent - verdict.reserved)
    if verdict.outcome is Outcome.HELD_ELSEWHERE:
        return Problem(
            CREDIT_HELD,
            f"What the spend limit {rule.terms} leaves is held by other calls in flight. Nothing was charged; try "
            "again in a moment.",
            retry_after=HELD_RETRY_SECONDS,
            shortage=Shortage(least, left, rule.rule_id, rule.on_page),
        )
    now = services.clock.now_ms()
    since = rule.window.since(now)
    room = partial(
        room_at, account_id=call.account_id, scope=rule.scope, since=since, limit=verdict.limit, needed=least
    )
    shortage = Shortage(least, left, rule.rule_id, rule.on_page)
    exceeded = f"Spend limit exceeded: {rule.terms} for {call.provider} {call.model}. "
    if least > verdict.limit:
        return Problem(
            LIMIT_TOO_LOW,
            f"{exceeded}This call alone can cost up to {format_usd(asked)} USD, more than the whole limit. "
            "Nothing was charged.",
            shortage=shortage,
        )
    at = await services.database.get(room) or now  # the holds in the way have ended meanwhile
    return Problem(
        SPEND_LIMITED,
        f"{exceeded}{format_usd(verdict.spent)} USD has been spent, this call can cost up to {format_usd(asked)} USD, "
        f"and there is room again at {utc(at):%Y-%m-%dT%H:%M:%SZ}. Nothing was charged.",
        retry_after=seconds_until(at, now),
        resets_at=at,
        shortage=shortage,
    )
