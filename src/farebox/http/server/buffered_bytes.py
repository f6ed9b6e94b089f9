"""Memory of a connection in addition to the exchange in progress, counted on leases of its own."""

from farebox.limits.byte_budget import ByteBudget, ByteLease

UNCLAIMED_FREE = 4 * 2**10
"""Bytes of unfinished request heads and of unrequested data that are not counted: most heads fit."""


class BufferedBytes:
    """The counts of one connection."""

    __slots__ = ("_budget", "_unclaimed", "_unsent_lease", "counting")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._unclaimed: ByteLease | None = None
        """Data received that belongs to no account yet."""
        self._unsent_lease: ByteLease | None = None
        """The lease of a response that waits to be read by the client, after its exchange has ended."""
        self.counting = False
        """Whether unclaimed data has been counted before."""

    def set_unclaimed(self, size: int, *, must: bool = False) -> bool:
        """Set the number of unclaimed bytes. Returns whether there is room for them; with `must` they are counted in
        any case."""
        lease = self._unclaimed = self._unclaimed or self._budget.lease()
        self.counting = True
        lease.shrink(size)
        if lease.room_for(size - lease.size):
            return True
        if must:
            lease.force(size - lease.size)
        return False

    def claimed(self, left: int) -> None:
        """Unclaimed data was claimed, except for this many bytes."""
        if self._unclaimed is not None:
            self._unclaimed.shrink(left)

    def add_unsent(self, lease: ByteLease | None, unsent: int) -> bool:
        """An exchange has ended, and this many bytes of its response wait for the client. Returns whether there is room
        for them. `lease`: that of the exchange, if it had one."""
        self.drop_unsent()
        lease = lease or self._budget.lease()
        lease.shrink(unsent)
        if not lease.room_for(unsent - lease.size):
            lease.close()
            return False
        self._unsent_lease = lease
        return True

    def drop_unsent(self) -> None:
        """The client has received the waiting response."""
        if self._unsent_lease is not None:
            self._unsent_lease.close()
            self._unsent_lease = None

    def close(self) -> None:
        """Nothing is kept any more."""
        self.drop_unsent()
        self.claimed(0)
