"""Jobs that only one process may run at a time: a lease in the database, with an epoch."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from farebox.runtime.services import Services
from farebox.storage.leases import drop_lease, finish_lease, take_lease
from farebox.storage.sql import DatabaseUnavailable

LEASE_MS = 15 * 60_000
"""Longer than such a job takes. One that takes longer may be started a second time, and must tolerate that."""
RETRY_MS = 60_000
"""The earliest retry after a failure."""


async def run_exclusive(
    services: Services,
    name: str,
    *,
    every_ms: int,
    job: Callable[[Services], Awaitable[None]],
    lease_ms: int = LEASE_MS,
    retry_ms: int = RETRY_MS,
) -> bool:
    """Run the job if it is due, counted from when it last finished, and no other process is running it. Returns whether
    it ran. Raises what the job raises: it is then due again after `retry_ms`; and DatabaseUnavailable."""
    take = partial(
        take_lease,
        name=name,
        owner=services.instance,
        every_ms=every_ms,
        lease_ms=lease_ms,
        at=services.clock.now_ms(),
    )
    epoch = await services.database.write(take)
    if epoch is None:
        return False
    try:
        await job(services)
    except BaseException:
        drop = partial(drop_lease, name=name, epoch=epoch, until=services.clock.now_ms() + retry_ms)
        with suppress(DatabaseUnavailable):  # the job's own exception is the one to report; the lease runs out
            await services.database.write(drop)
        raise
    await services.database.write(partial(finish_lease, name=name, epoch=epoch, at=services.clock.now_ms()))
    return True
