"""What a connection keeps in memory besides the exchange in progress, counted on its own leases."""

from farebox.limits.held import ByteBudget, Lease

UNCLAIMED_FREE = 4 * 2**10
"""Bytes of unfinished request heads, and of unrequested data, that are not counted: most heads fit."""


class BufferedBytes:
    """Counts of one connection."""

    __slots__ = ("_budget", "_unclaimed", "_unsent_lease", "counting")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._unclaimed: Lease | None = None
        """What came and belongs to no account yet."""
        self._unsent_lease: Lease | None = None
        """A response waiting to be taken, whose exchange has ended."""
        self.counting = False
        """Whether what is unclaimed has been counted before."""

    def set_unclaimed(self, size: int, *, must: bool = False) -> bool:
        """This many bytes are unclaimed now; returns whether there is room for them. With `must` they count anyway."""
        lease = self._unclaimed = self._unclaimed or self._budget.lease()
        self.counting = True
        lease.shrink(size)
        if lease.room_for(size - lease.size):
            return True
        if must:
            lease.force(size - lease.size)
        return False

    def claimed(self, left: int) -> None:
        """Of what was unclaimed, this many bytes are left."""
        if self._unclaimed is not None:
            self._unclaimed.shrink(left)

    def add_unsent(self, lease: Lease | None, unsent: int) -> bool:
        """An exchange has ended, and this many bytes of its response wait to be taken; returns whether there is room
        for them. The lease is that of the exchange, if it had one."""
        self.drop_unsent()
        lease = lease or self._budget.lease()
        lease.shrink(unsent)
        if not lease.room_for(unsent - lease.size):
            lease.close()
            return False
        self._unsent_lease = lease
        return True

    def drop_unsent(self) -> None:
        """The client has taken it."""
        if self._unsent_lease is not None:
            self._unsent_lease.close()
            self._unsent_lease = None

    def close(self) -> None:
        """Nothing is kept any longer."""
        self.drop_unsent()
        self.claimed(0)
