"""Work that would keep the event loop from everybody, done in processes beside it (ADR 20).

A decoder that walks through millions of small values holds the interpreter's lock, so a thread would not help. The
processes are few, begun when there is work, ended when there is none, and bounded in memory and time, so that what one
account sends costs that account.
"""

from farebox.offload.pool import Busy, Died, Pool, TooMuch

__all__ = ["Busy", "Died", "Pool", "TooMuch"]
