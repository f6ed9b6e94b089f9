"""The account's spending limit: Cloudflare's three calls, in cents, and Farebox's own, which reports what is spent in
nano-dollars."""

from typing import Annotated, Literal

import msgspec

from farebox.calls.spending import spending_limit
from farebox.errors import SPENDING_LIMIT_DEPRECATED, Problem
from farebox.http.control.topups import Nothing
from farebox.http.control.wire import iso, iso_or_none
from farebox.http.envelope import Response, ok
from farebox.http.request import Request
from farebox.storage.spending import SpendingLimit


class SpendingLimitConfig(msgspec.Struct, frozen=True):
    """`amount` is in cents; all fields are null if there is no limit."""

    amount: int | None = None
    duration: Literal["daily", "weekly", "monthly"] | None = None
    strategy: Literal["fixed", "sliding"] | None = None


class Limit(msgspec.Struct, frozen=True):
    """The most that the account's calls may be charged in a window."""

    enabled: bool = False
    config: SpendingLimitConfig = SpendingLimitConfig()


class LimitSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """fixed: the calendar day, week (from Monday) or month, in the account's time zone. sliding: the last 24 hours, 7
    days or 30 days."""

    amount: Annotated[int, msgspec.Meta(ge=100)]
    duration: Literal["daily", "weekly", "monthly"]
    strategy: Literal["fixed", "sliding"]


class LimitState(msgspec.Struct, frozen=True, kw_only=True):
    """The limit and what is spent of it; all fields are null if there is no limit."""

    limit_nanos: int | None = None
    spent_nanos: int | None = None
    held_nanos: int | None = None
    """What open calls hold counts as spent until they end."""
    available_nanos: int | None = None
    duration: Literal["daily", "weekly", "monthly"] | None = None
    strategy: Literal["fixed", "sliding"] | None = None
    window_start: str | None = None
    window_end: str | None = None
    """Null for a sliding window, which never ends."""


async def get(request: Request, _: None) -> Response:
    return ok(_limit(await spending_limit.get(request.services, request.account_id)))


async def put(request: Request, body: LimitSet) -> Response:
    """Set the account's limit, replacing any other."""
    if request.services.settings.spending_limit_post == "deny":
        raise Problem(SPENDING_LIMIT_DEPRECATED, "Account-wide spending limits are deprecated")
    saved = await spending_limit.put(
        request.services,
        request.account_id,
        amount_cents=body.amount,
        duration=body.duration,
        strategy=body.strategy,
    )
    return ok(_limit(saved), status=201)


async def remove(request: Request, _: None) -> Response:
    """Remove the limit; if there is none, nothing happens."""
    await spending_limit.remove(request.services, request.account_id)
    return ok(Nothing())


def _limit(limit: SpendingLimit | None) -> Limit:
    if limit is None:
        return Limit()
    return Limit(True, SpendingLimitConfig(limit.amount_cents, limit.duration, limit.strategy))


async def state(request: Request, _: None) -> Response:
    found = await spending_limit.state(request.services, request.account_id)
    if found is None:
        return ok(LimitState())
    shown = LimitState(
        limit_nanos=found.limit.amount,
        spent_nanos=found.spent,
        held_nanos=found.held,
        available_nanos=found.available,
        duration=found.limit.duration,
        strategy=found.limit.strategy,
        window_start=iso(found.window_start),
        window_end=iso_or_none(found.window_end),
    )
    return ok(shown)
