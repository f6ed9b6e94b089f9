"""What a call has tried, as its receipt tells it: one line an attempt."""

from farebox.calls.record import Ended
from farebox.calls.stages import Admitted, Priced
from farebox.pricing.receipt import ReceiptAttempt


def attempt_of(stage: Priced, status: int | None, error: str = "", *, charged: bool = False) -> ReceiptAttempt:
    """The attempt that the call is at."""
    call = stage.context.call
    key = stage.attempts.key if isinstance(stage, Admitted) else None
    alias = call.key_alias if key is None else key.alias
    return ReceiptAttempt(call.provider, call.model, status, error, charged, alias, call.log_id)


def tell_attempts(stage: Priced, ended: Ended) -> None:
    """Note on the record of a call that ends what was tried, where that is more than this: and for the steps after
    it."""
    trail = stage.context.call.trail
    failed = stage.attempts.failed if isinstance(stage, Admitted) else ()
    status = (stage.attempts.status or None) if isinstance(stage, Admitted) else None
    tried = (*failed, attempt_of(stage, status, ended.error, charged=ended.outcome == "charged"))
    told = (*(trail or ()), *tried)
    ended.attempts = told if len(told) > 1 else ()
    if trail is not None:
        trail.extend(tried)
