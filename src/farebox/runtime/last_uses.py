"""Writing when keys were last used: once a minute, in separate transactions."""

from contextlib import suppress
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Final

from farebox.limits.last_uses import Used
from farebox.runtime.services import Services
from farebox.storage.account_keys import by_bucket
from farebox.storage.last_uses import write_uses
from farebox.storage.sql import DatabaseUnavailable, NodeUnavailable

BATCH_MAX: Final = 200


async def write(services: Services) -> None:
    """Write what has been collected. Raises DatabaseUnavailable; what is not written is kept for the next time, except
    if only the node of an account is unavailable."""
    waiting = iter(services.last_uses.take().items())
    while batch := list(islice(waiting, BATCH_MAX)):
        try:
            await _write(services, batch)
        except DatabaseUnavailable:
            services.last_uses.put_back([*batch, *waiting])
            raise


async def write_at_the_end(services: Services) -> None:
    """When the process ends: write what is left, if the database accepts it."""
    with suppress(DatabaseUnavailable):
        await write(services)


async def _write(services: Services, batch: list[tuple[Used, int]]) -> None:
    """Write in one transaction per bucket."""
    uses = [(*key, at) for key, at in batch]
    for some in (await services.database.get(partial(by_bucket, items=uses, account_of=itemgetter(0)))).values():
        with suppress(NodeUnavailable):
            await services.database.write(partial(write_uses, uses=some))
