"""Which processes serve, and which calls are in doubt.

On SQLite a server is alone: holds that are open when it starts belong to a process that died. On PostgreSQL each
serving process has a row that it renews every few seconds. Any process may declare another one dead if the other's row
has not changed for a while, provided that the observer itself could see the database all that time. Clocks are not
compared: the observer measures by its own clock since it last saw a change.

A process that is declared dead may only have been cut off. Its holds therefore expire rather than being released: if it
comes back, its charges are still posted.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import structlog

from farebox.ledger.recovery import OpenHold, holds_of, owners_of_holds, resolve_left_open, resolve_lost
from farebox.runtime.leases import run_exclusive
from farebox.runtime.queue_search import skipped_ticks
from farebox.runtime.services import Services
from farebox.storage.instances import fence, list_instances, note_seen, remove_instance
from farebox.storage.sql import Connection, DatabaseUnavailable

NO_ROW = -1
"""Stands for the `seen_at` of an owner of holds that has no row."""
SEEN_TIMES = 6
"""How often a process renews its row within the time after which it would be declared dead."""

log = structlog.get_logger("farebox.instances")


@asynccontextmanager
async def present(services: Services) -> AsyncIterator[None]:
    """Serve as one of the database's processes until the block ends. On SQLite calls in doubt are resolved first."""
    if services.database.engine == "sqlite":
        await resolve_left_open(
            services.ledger,
            services.database,
            instance=services.instance,
            policy=services.settings.in_doubt,
            at=services.clock.now_ms(),
            log=log,
        )
        yield
        return
    await _note_seen(services)
    yield
    try:
        await services.database.write(partial(remove_instance, instance_id=services.instance))
    except DatabaseUnavailable as error:  # others will find that the row is no longer renewed, and remove it
        log.warning("database unavailable", why=str(error))


async def _note_seen(services: Services) -> None:
    seen = partial(note_seen, instance_id=services.instance, at=services.clock.now_ms())
    await services.database.write(seen)


class FailureDetector:
    """Renews the row of this process, and finds the processes whose rows are no longer renewed."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lost_after = services.settings.instance_timeout_ms / 1000
        self._checked_at = services.clock.monotonic()
        self._seen: dict[str, tuple[int, float]] = {}
        """Instance → the `seen_at` last read, and when we first read it, by our own clock."""
        self._owners: list[str] = []
        """The owners of open holds when they were last read."""
        self._skip = 0
        """How many checks to skip before they are read again."""
        self._waited_for: set[str] = set()
        """Dead instances that left a batch in progress; each has been logged."""

    @property
    def every_seconds(self) -> float:
        return self._lost_after / SEEN_TIMES

    async def check(self) -> None:
        """Once every `every_seconds`: renew our row, look at the others, and end what dead processes left open.

        Raises DatabaseUnavailable.
        """
        services = self._services
        await _note_seen(services)
        instances = await self._read()
        # A process that was declared dead, but is back and accepts calls again, has no row either until it renews it.
        silent = self._silent({**dict.fromkeys(self._owners, NO_ROW), **instances})
        lost = silent.intersection(self._owners) - {services.instance}
        self._waited_for &= silent
        gone = {name: seen_at for name, seen_at in instances.items() if name in silent}
        services.queue_search.processes = max(1, len(instances) - len(gone))
        if lost or gone:
            await run_exclusive(
                services,
                "in_doubt",
                every_ms=0,
                # The lease lasts until the process that does this would be declared dead itself. If it takes longer,
                # another process joins in, which does no harm.
                lease_ms=services.settings.instance_timeout_ms,
                retry_ms=0,
                job=partial(_end_lost, lost=lost, gone=gone, waited_for=self._waited_for),
            )

    async def _read(self) -> Mapping[str, int]:
        """Read the instances and, in turns with the other processes, the owners, which takes a statement for each
        bucket.

        Owners matter only if they have no row, which is rare: they died after they were declared dead and came back,
        before they renewed it. Such an owner may be noticed later, by one timeout at most.
        """
        services = self._services
        if self._skip:
            self._skip -= 1
            return await services.database.get(list_instances)
        self._owners, instances = await services.database.get(_owners_and_instances)
        self._skip = skipped_ticks(services.queue_search.processes, at_most=SEEN_TIMES - 1)
        return instances

    def _silent(self, known: Mapping[str, int]) -> set[str]:
        """Instances whose rows have not been renewed for too long; `known` has the `seen_at` of each."""
        now = self._services.clock.monotonic()
        if now - self._checked_at > self._lost_after / 2:
            self._seen.clear()  # we or the database were unavailable: no silence counts
        self._checked_at = now
        before = self._seen
        self._seen = {
            name: before[name] if name in before and before[name][0] == seen_at else (seen_at, now)
            for name, seen_at in known.items()
        }
        return {name for name, (_, since) in self._seen.items() if now - since >= self._lost_after}


def _owners_and_instances(connection: Connection) -> tuple[list[str], dict[str, int]]:
    """The owners of open holds, and the instances. They are read in this order: a process has a row before it creates a
    hold, so the owner of a live hold is always known."""
    owners = owners_of_holds(connection)
    return owners, list_instances(connection)


async def _end_lost(services: Services, *, lost: set[str], gone: Mapping[str, int], waited_for: set[str]) -> None:
    """End the holds that lost instances left open, then delete their rows. An instance with a batch in progress is
    added to `waited_for`."""
    for name in sorted({*lost, *gone}):
        holds = await services.database.write(partial(_fenced, instance_id=name))
        if holds is None:
            if name not in waited_for:
                waited_for.add(name)
                log.warning("instance_lost_has_batch", instance=name, until="its holds are ended when that has ended")
            continue
        await resolve_lost(
            services.ledger,
            services.database,
            holds,
            policy=services.settings.in_doubt,
            at=services.clock.now_ms(),
            log=log,
        )
        if name in gone:
            log.warning("instance_lost", instance=name)
            await services.database.write(partial(remove_instance, instance_id=name, seen_at=gone[name]))


def _fenced(connection: Connection, instance_id: str) -> list[OpenHold] | None:
    """Declare a process dead. Returns all the holds that it has left open; it cannot create any more. None if one of
    its batches is in progress. If the process is alive it reconnects, and the holds that it then creates are not among
    these."""
    return holds_of(connection, instance_id) if fence(connection, instance_id) else None
