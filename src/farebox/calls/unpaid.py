"""How much work an account may leave unpaid by abandoning calls before their response begins.

Nobody reports what the provider did and bills for such a call. If the provider continues working on it, the worst case
counts: the hold, minus what was charged.
"""

from farebox.calendar import SECOND_MS
from farebox.calls.endings import BY_CALLER
from farebox.calls.model import Call
from farebox.calls.stages import Admitted
from farebox.errors import GIVEN_UP, Problem
from farebox.money import NANOS_PER_CENT
from farebox.runtime.services import Services


def check_unpaid(services: Services, call: Call) -> None:
    """Raises Problem (GIVEN_UP) if the account has left too much unpaid."""
    hourly = services.settings.unpaid_hourly_cents * NANOS_PER_CENT
    if not hourly or not services.unpaid.any:
        return
    now = services.clock.now_ms()
    wait = services.unpaid.wait(call.account_id, hourly, now)
    if wait is not None:
        raise Problem(
            GIVEN_UP,
            "Too many calls of this account were abandoned before their response began, with the provider at work.",
            retry_after=wait,
            resets_at=now + wait * SECOND_MS,
        )


def count_unpaid(stage: Admitted, charge: int) -> None:
    """Count an abandoned call, or attempt of one (`stage.attempts.given_up`), as its whole hold minus the charge."""
    services, call = stage.context.services, stage.context.call
    hourly = services.settings.unpaid_hourly_cents * NANOS_PER_CENT
    if not hourly or stage.held is None or stage.metered is None:
        return
    # A stream begins at once: if the operator's own timeout ended the wait, the provider has failed. A response in one
    # piece shows nothing until it has been generated.
    brief = call.access.provider.stops_when_left or stage.attempts.given_up not in BY_CALLER
    if stage.metered.parsed.stream and brief:
        return
    left = stage.held.estimate.amount - charge
    if left > 0:
        services.unpaid.add(call.account_id, left, hourly, services.clock.now_ms())
