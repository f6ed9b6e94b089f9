"""Jobs by the fake's clock: sessions expire, refunds are decided, drafts are finalized."""

from collections.abc import Callable

from fake_stripe import checkout, invoice_collection, refunds
from fake_stripe.world import Cause, World

_JOBS: dict[str, Callable[[World, str], None]] = {
    "advance": invoice_collection.advance,
    "expire": checkout.expire_due,
    "fails": refunds.fail,
    "pending": refunds.succeed,
}


def run_due(world: World) -> int | None:
    """Run the due jobs. Returns the time of the next one; None if nothing waits."""
    next_due = None
    for known in world.store.all("_job"):
        if known["at"] > world.now():
            next_due = known["at"] if next_due is None else min(next_due, known["at"])
            continue
        world.store.remove(known)
        world.cause = Cause()
        _JOBS[known["act"]](world, known["of"])
    return next_due
