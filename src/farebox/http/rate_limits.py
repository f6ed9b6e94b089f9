"""The rate limits of access tokens and of gateways, which every model call is counted against."""

from farebox.errors import RATE_LIMITED, TOKEN_RATE_LIMITED, Problem
from farebox.http.call_target import Target
from farebox.http.permits import Permit
from farebox.runtime.services import Services


def count_call(services: Services, target: Target, permit: Permit) -> None:
    """Raises Problem (TOKEN_RATE_LIMITED, RATE_LIMITED). What its token's limit refuses counts nowhere."""
    token, gateway = permit.token, permit.gateway
    if token is not None and token.rate is not None:
        rate = token.rate
        key = (token.account_id, f"token/{token.token_id}")
        wait = services.gateway_rates.admit(
            key, rate.calls, rate.seconds, sliding=rate.sliding, now_ms=services.clock.now_ms()
        )
        if wait is not None:
            words = f"the access token takes {rate.calls} calls in {rate.seconds} seconds"
            raise Problem(TOKEN_RATE_LIMITED, f"Rate limited: {words}. Nothing was charged.", retry_after=wait)
    limit, seconds = gateway.rate_limiting_limit, gateway.rate_limiting_interval
    if not limit or not seconds:
        return
    wait = services.gateway_rates.admit(
        (target.account_id, target.gateway_id),
        limit,
        seconds,
        sliding=gateway.rate_limiting_technique == "sliding",
        now_ms=services.clock.now_ms(),
    )
    if wait is not None:
        raise Problem(RATE_LIMITED, "Rate limited", retry_after=wait)
