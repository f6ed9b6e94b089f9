"""The attempts of a call, as they appear in its receipt."""

from farebox.calls.record import CallOutcome
from farebox.calls.stages import Admitted, Received
from farebox.pricing.receipt import ReceiptAttempt


def attempt_of(stage: Received, status: int | None, error: str = "", *, charged: bool = False) -> ReceiptAttempt:
    """The call's current attempt."""
    call = stage.context.call
    key = stage.attempts.key if isinstance(stage, Admitted) else None
    alias = call.key_alias if key is None else key.alias
    return ReceiptAttempt(call.provider, call.model, status, error, charged, alias, call.log_id)


def record_attempts(stage: Received, ended: CallOutcome) -> None:
    """Record a call's attempts when it ends, if there was more than one; also in the trail for the steps that
    follow."""
    trail = stage.context.call.trail
    failed = stage.attempts.failed if isinstance(stage, Admitted) else ()
    status = (stage.attempts.status or None) if isinstance(stage, Admitted) else None
    tried = (*failed, attempt_of(stage, status, ended.error, charged=ended.outcome == "charged"))
    recorded = (*(trail or ()), *tried)
    ended.attempts = recorded if len(recorded) > 1 else ()
    if trail is not None:
        trail.extend(tried)
