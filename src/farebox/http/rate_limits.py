"""Counting a model call: its token's last use, and the rate limits of its access token and its gateway."""

from farebox.calendar import seconds_until
from farebox.errors import RATE_LIMITED, TOKEN_RATE_LIMITED, Problem
from farebox.http.call_target import CallTarget
from farebox.http.permits import Permit
from farebox.runtime.services import Services


def count_call(services: Services, target: CallTarget, permit: Permit) -> None:
    """Raises Problem (TOKEN_RATE_LIMITED, RATE_LIMITED). A call that its token's limit refuses is not counted in the
    gateway's."""
    token, gateway, now = permit.token, permit.gateway, services.clock.now_ms()
    if token is not None:
        services.last_uses.note((token.account_id, "token", token.token_id), now)
    if token is not None and token.rate is not None:
        rate = token.rate
        key = (token.account_id, f"token/{token.token_id}")
        at = services.gateway_rates.admit(key, rate.calls, rate.seconds, sliding=rate.sliding, now_ms=now)
        if at is not None:
            words = f"Rate limited: the access token takes {rate.calls} calls in {rate.seconds} seconds"
            wait = seconds_until(at, now)
            raise Problem(TOKEN_RATE_LIMITED, f"{words}. Nothing was charged.", retry_after=wait, resets_at=at)
    limit, seconds = gateway.rate_limiting_limit, gateway.rate_limiting_interval
    if not limit or not seconds:
        return
    sliding = gateway.rate_limiting_technique == "sliding"
    place = (target.account_id, target.gateway_id)
    at = services.gateway_rates.admit(place, limit, seconds, sliding=sliding, now_ms=now)
    if at is not None:
        wait = seconds_until(at, now)
        words = f"the gateway takes {limit} calls in {seconds} seconds; the next one in {wait} seconds"
        raise Problem(RATE_LIMITED, f"Rate limited: {words}. Nothing was charged.", retry_after=wait, resets_at=at)
