"""The rate limit of a stored key, over all calls that are made with it."""

from farebox.calls.model import Call
from farebox.errors import RATE_LIMITED, Problem
from farebox.runtime.services import Services


def count_key(services: Services, call: Call) -> None:
    """Count a call against the limit of its stored key, where that has one. Raises Problem (RATE_LIMITED)."""
    limit = call.key_limit
    if limit is None:
        return
    wait = services.gateway_rates.admit(
        (call.account_id, f"key/{limit.config_id}"),
        limit.limit,
        limit.seconds,
        sliding=False,
        now_ms=services.clock.now_ms(),
    )
    if wait is not None:
        raise Problem(
            RATE_LIMITED,
            f"Rate limited: the stored key {call.key_alias!r} for {call.provider} takes {limit.limit} calls in "
            f"{limit.seconds} seconds.",
            retry_after=wait,
        )
