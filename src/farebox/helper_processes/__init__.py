"""Work that would block the event loop, done in helper processes (ADR 20).

A decoder that processes millions of small values holds the interpreter lock, so a thread would not help. The processes
are few, started when there is work, ended when there is none, and bounded in memory and time, so that what one account
sends affects only that account.
"""

from farebox.helper_processes.pool import BeginHelper, HelperDied, Pool, PoolBusy, PoolStopping, TooMuchWork
from farebox.helper_processes.process import HelperProcess

__all__ = ["BeginHelper", "HelperDied", "HelperProcess", "Pool", "PoolBusy", "PoolStopping", "TooMuchWork"]
